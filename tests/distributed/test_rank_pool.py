"""The pool runs jobs as torchrun would, and survives what jobs do to it."""

import os
import time

import pytest
import torch

from tests.distributed import rank_pool
from tests.distributed.rank_pool import RankFailure, RankPool


def environment(rank: int) -> dict[str, str]:
    return {name: os.environ[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}


def add(rank: int, tensor: torch.Tensor, scale: int) -> torch.Tensor:
    return tensor * scale + rank


def process_number(rank: int) -> int:
    return os.getpid()


def fail_on_one(rank: int) -> None:
    if rank == 1:
        raise RuntimeError("this rank has a problem")
    time.sleep(60)


def exit_politely(rank: int) -> None:
    raise SystemExit(2)


def die(rank: int) -> None:
    os._exit(7)


def sleep(rank: int) -> None:
    time.sleep(60)


def test_environment_of_torchrun(pool: RankPool) -> None:
    answers = pool.run(environment, 2)
    assert [answer["RANK"] for answer in answers] == ["0", "1"]
    assert [answer["LOCAL_RANK"] for answer in answers] == ["0", "1"]
    assert {answer["WORLD_SIZE"] for answer in answers} == {"2"}
    assert len({answer["MASTER_PORT"] for answer in answers}) == 1


def test_arguments_and_results(pool: RankPool) -> None:
    assert [r.tolist() for r in pool.run(add, 2, torch.ones(2), 3)] == [[3, 3], [4, 4]]


def test_processes_stay(pool: RankPool) -> None:
    assert pool.run(process_number, 2) == pool.run(process_number, 2)


def test_processes_with_many_threads_are_replaced(monkeypatch) -> None:
    own = RankPool()
    first = own.run(process_number, 1)
    monkeypatch.setattr(rank_pool, "MOST_THREADS", 0)
    second = own.run(process_number, 1)
    own.close()
    assert first != second


def test_failure_names_rank_and_reason(pool: RankPool) -> None:
    with pytest.raises(RankFailure, match=r"rank 1:(.|\n)*this rank has a problem(.|\n)*killed: ranks \[0\]"):
        pool.run(fail_on_one, 2)
    assert len(pool.run(process_number, 2)) == 2


def test_exit_is_a_failure(pool: RankPool) -> None:
    before = pool.run(process_number, 1)
    with pytest.raises(RankFailure, match="SystemExit: 2"):
        pool.run(exit_politely, 1)
    assert pool.run(process_number, 1) == before


def test_death_of_a_process(pool: RankPool) -> None:
    with pytest.raises(RankFailure, match="exit code 7"):
        pool.run(die, 1)
    assert len(pool.run(process_number, 1)) == 1


def test_timeout_tells_where_the_ranks_stood(pool: RankPool) -> None:
    with pytest.raises(TimeoutError, match=r"ranks \[0\] did not answer within 1 s(.|\n)*in sleep"):
        pool.run(sleep, 1, timeout=1)
    assert len(pool.run(process_number, 1)) == 1

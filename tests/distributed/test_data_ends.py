"""However a run ends, no process of it stays, and another one goes on from its last checkpoint."""

import signal
import time

import pytest

from tests.distributed.layouts import LAYOUTS, Layout, small_run, train
from tests.distributed.rank_pool import _free_port
from tests.distributed.run_faults import Fault, living, rank_process
from tests.distributed.test_kill_save import fresh_process  # noqa: F401
from vidtron.checkpoint import completed, iteration_of

STEPS = 6
SECONDS_TO_END = 240.0
"""Far below the ten minutes that a collective waits; the machine may be busy."""


def run_ranks(process, ranks: int, mark: str, *args) -> list[int]:
    """Exit codes of the ranks of a run, each a process."""
    port = _free_port()
    started = [process(target=rank_process, args=(rank, ranks, port, mark, *args)) for rank in range(ranks)]
    for one in started:
        one.start()
    while all(one.is_alive() for one in started):
        time.sleep(0.02)
    deadline = time.monotonic() + SECONDS_TO_END
    for one in started:
        one.join(timeout=max(0.0, deadline - time.monotonic()))
    alive = [rank for rank, one in enumerate(started) if one.is_alive()]
    for one in started:
        one.kill()
        one.join()
    assert not alive, f"ranks {alive} of {ranks} go on {SECONDS_TO_END:g} s after another one has ended"
    return [one.exitcode for one in started]


def nothing_lives(mark: str) -> bool:
    deadline = time.monotonic() + 60
    while living(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not living(mark)


@pytest.fixture(scope="module")
def expected(pool, shards):
    return pool.run(train, 1, small_run(shards, train_iters=STEPS, decoder="pyav"))[0].losses


CASES = [
    ("bug", "DP2", 1),
    ("bug", "TP2", 2),
    ("reads refused", "DP2", 1),
    ("reads refused", "PP2", 2),
    ("SIGKILL", "TP2", 2),
    ("SIGKILL", "DP2 x PP2", 1),
    ("SIGINT twice", "DP2", 0),
]


@pytest.mark.parametrize(("fault", "name", "ahead"), CASES)
def test_all_ranks_end(fresh_process, pool, shards, expected, tmp_path, fault, name, ahead):  # noqa: F811
    layout: Layout = LAYOUTS[name]
    flags = {
        "train_iters": STEPS,
        "decoder": "pyav",
        "encode_ahead": ahead,
        "save": tmp_path / "run",
        "load": tmp_path / "run",
        "save_interval": 2,
        "num_workers": 0 if fault == "reads refused" else 1,
        **layout.flags,
    }
    run = small_run(shards, **flags)
    codes = run_ranks(fresh_process, layout.ranks, str(tmp_path), run, Fault(fault, 3, 1))
    assert 0 not in codes
    if fault == "SIGKILL":
        assert codes[1] == -signal.SIGKILL
    assert nothing_lives(str(tmp_path)), living(str(tmp_path))
    saved = iteration_of(completed(tmp_path / "run")[-1])
    assert saved >= 2  # what was encoded ahead may still have been trained on
    assert pool.run(train, layout.ranks, run)[0].losses == pytest.approx(expected[saved:], rel=1e-5)


@pytest.mark.parametrize(("fault", "done"), [("SIGTERM", 4), ("SIGINT", 4), ("decoder killed", STEPS)])
def test_the_run_is_saved(fresh_process, pool, shards, expected, tmp_path, fault, done):  # noqa: F811
    flags = {"train_iters": STEPS, "decoder": "pyav", "num_workers": 1, "encode_ahead": 2, "save": tmp_path / "run"}
    run = small_run(shards, **flags, tensor_model_parallel_size=2)
    assert run_ranks(fresh_process, 2, str(tmp_path), run, Fault(fault, 3, 1)) == [0, 0]
    assert nothing_lives(str(tmp_path)), living(str(tmp_path))
    result = pool.run(train, 1, small_run(shards, **flags, load=tmp_path / "run"))[0]
    assert result.losses == pytest.approx(expected[done:], rel=1e-5)

"""Waiting for longer than the run's time-out."""

import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist

from tests.distributed.layouts import small_run
from vidtron.config.world import World
from vidtron.parallel import PatientBarrier, barrier, initialized

TIMEOUT_SECONDS = 10  # must last for connecting on a busy machine


def be_there(rank: int) -> None:
    """Job: a rank process that has just been started has imported everything when it answers."""


def meet(rank: int, timed_out: Path) -> str:
    """Job: rank 1 comes when two barriers of the run's time-out, one after the other, have failed on rank 0.

    Returns how rank 0's patient barrier, in which it has waited all the while, stood at that moment.
    """
    run = small_run("", distributed_timeout_minutes=TIMEOUT_SECONDS / 60)
    with initialized(run, World.from_environment()) as groups:
        everyone = PatientBarrier(groups)
        second = dist.new_group(timeout=timedelta(seconds=TIMEOUT_SECONDS))
        everyone.wait()
        if rank == 1:
            while not timed_out.exists():
                time.sleep(0.05)
            everyone.wait()
            return "came"
        left: list[str] = []

        def wait_patiently() -> None:
            try:
                everyone.wait()
                left.append("met")
            except RuntimeError as error:
                left.append(str(error))

        waiting = threading.Thread(target=wait_patiently)
        waiting.start()
        with pytest.raises(RuntimeError, match=r"(?i)timed? ?out"):
            barrier(groups)
        # The patient one began first, but perhaps by no more than an instant: one time-out more leaves no doubt.
        with pytest.raises(RuntimeError, match=r"(?i)timed? ?out"):
            dist.barrier(group=second)
        assert not left, left
        timed_out.touch()
        waiting.join()
        return left[0]


@pytest.mark.slow
def test_a_rank_may_be_late(pool, tmp_path):
    pool.run(be_there, 2)
    assert pool.run(meet, 2, tmp_path / "timed-out") == ["met", "came"]

"""Waiting for longer than the run's time-out."""

import time

import pytest

from tests.distributed.layouts import small_run
from tests.distributed.rank_pool import RankFailure
from vidtron.config.world import World
from vidtron.parallel import PatientBarrier, barrier, initialized

TIMEOUT_SECONDS, LATE_SECONDS = 10, 13  # the shorter must last for connecting on a busy machine


def meet(rank: int, patiently: bool) -> float:
    """Job: rank 1 comes late; returns how long each has waited."""
    run = small_run("", distributed_timeout_minutes=TIMEOUT_SECONDS / 60)
    with initialized(run, World.from_environment()) as groups:
        everyone = PatientBarrier(groups)
        everyone.wait()
        start = time.monotonic()
        if rank == 1:
            time.sleep(LATE_SECONDS)
        if patiently:
            everyone.wait()
        else:
            barrier(groups)
        return time.monotonic() - start


@pytest.mark.slow
def test_a_rank_may_be_late(pool):
    assert min(pool.run(meet, 2, True)) > LATE_SECONDS - 1
    with pytest.raises(RankFailure, match=r"(?i)timed? ?out"):
        pool.run(meet, 2, False)

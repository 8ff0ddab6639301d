"""A run that is killed while it saves goes on from its last complete checkpoint."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from tests.distributed.layouts import small_run, train
from vidtron.checkpoint import completed, iteration_of

STEPS = 6


@pytest.fixture(scope="module")
def fresh_process():
    """Starts processes that have imported everything and computed nothing; forked, so that they are there at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.distributed.layouts"])
    return context.Process


def train_in_own_group(run) -> None:
    os.setpgid(0, 0)  # the processes that write for it die with it
    train(0, run)


def kill_while_training(process, folder: Path, glob: str, delay: float) -> None:
    """Kill the process `delay` seconds after a file that matches `glob` appears in its run folder."""
    process.start()
    deadline = time.monotonic() + 300
    while not any(folder.glob(glob)):
        assert process.is_alive(), "the run ended before it was killed"
        assert time.monotonic() < deadline, f"nothing like {glob} in {list(folder.rglob('*'))}"
        time.sleep(0.0005)
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL, "the run ended before it was killed"


MOMENTS = {
    "first save has begun": ("unfinished_iter_0000001", 0.0),
    "first save is being written": ("unfinished_iter_0000001/*", 0.0),
    "a later save has begun": ("unfinished_iter_000000[2-9]", 0.0),
    "tensors of a later save": ("unfinished_iter_000000[2-9]/*.distcp", 0.002),
    "a later save is nearly done": ("unfinished_iter_000000[2-9]/metadata.json", 0.0),
    "second save is done": ("iter_0000002", 0.01),
}


@pytest.fixture(scope="module")
def uninterrupted(pool, shards):
    return pool.run(train, 1, small_run(shards, train_iters=STEPS))[0].losses


@pytest.mark.parametrize("async_save", [False, True], ids=["waiting", "in-the-background"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_run_goes_on(pool, fresh_process, shards, tmp_path, uninterrupted, moment, async_save):
    glob, delay = MOMENTS[moment]
    flags = {"save": tmp_path, "load": tmp_path, "save_interval": 1, "train_iters": STEPS, "async_save": async_save}
    run = small_run(shards, **flags)
    kill_while_training(fresh_process(target=train_in_own_group, args=(run,)), tmp_path, glob, delay)
    left = [iteration_of(path) for path in completed(tmp_path)]
    result = pool.run(train, 1, run)[0]
    assert result.iteration == STEPS
    assert result.losses == pytest.approx(uninterrupted[left[-1] if left else 0 :], rel=1e-6)
    assert not list(tmp_path.glob("unfinished_*"))

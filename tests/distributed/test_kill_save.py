"""A run that is killed while it saves goes on from its last complete checkpoint."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from megatron.core.dist_checkpointing.strategies import filesystem_async

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


def train_with_stalled_writer(run) -> None:
    owner, plain = os.getpid(), filesystem_async._write_item

    def write_item(*args, **kwargs):
        while os.getpid() != owner:
            time.sleep(0.01)
        return plain(*args, **kwargs)

    filesystem_async._write_item = write_item
    train(0, run)


def test_what_a_killed_run_leaves(pool, fresh_process, shards, tmp_path, uninterrupted):
    """Its decoding process and the one that saves in the background end with it, though only the rank was killed; the
    folder that they leave is removed by the next start, before it saves anything."""
    shared_memory = sorted(os.listdir("/dev/shm"))
    flags = {"save": tmp_path, "load": tmp_path, "train_iters": STEPS, "num_workers": 1}
    run = small_run(shards, **flags, save_interval=1, async_save=True)
    process = fresh_process(target=train_with_stalled_writer, args=(run,))
    process.start()
    wait_for(lambda: any(tmp_path.glob("unfinished_iter_0000001/*.distcp")), process)
    wait_for(lambda: len(children(process.pid)) >= 2, process)
    left = children(process.pid)
    process.kill()
    process.join()
    deadline = time.monotonic() + 60
    while any(map(alive, left)):
        assert time.monotonic() < deadline, [child for child in left if alive(child)]
        time.sleep(0.05)
    assert sorted(os.listdir("/dev/shm")) == shared_memory
    assert list(tmp_path.glob("unfinished_*"))
    result = pool.run(train, 1, small_run(shards, **flags, exit_duration_in_mins=0.0))[0]
    assert result.losses == pytest.approx(uninterrupted[:1], rel=1e-6)
    assert not list(tmp_path.glob("unfinished_*"))


def children(parent: int) -> list[int]:
    """Process ids of the living children of a process."""
    found = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [one for one in found if alive(one, parent)]


def alive(process: int, parent: int | None = None) -> bool:
    """Whether it lives, and is a child of `parent` if one is given; one that nobody has asked after does not live."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False
    return "\nState:\tZ" not in status and (parent is None or f"\nPPid:\t{parent}\n" in status)


def wait_for(condition, process) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)

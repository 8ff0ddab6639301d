"""A save that is killed at any moment leaves a run that can be loaded."""

import functools
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron.core.dist_checkpointing import serialization
from megatron.core.dist_checkpointing.strategies import filesystem_async

from tests.distributed.rank_pool import RankFailure, RankPool
from tests.distributed.toy import Layout, Toy
from vidtron import checkpoint
from vidtron.checkpoint import folders
from vidtron.config.world import World
from vidtron.parallel import initialized

NUMBER_OF_TENSORS = 4 * 4 * 3  # layers, parameters of a layer, weight and two moments


def kill_this_run() -> None:
    """The rank's process and, in a background save, the one forked from it to write."""
    os.kill(int(os.environ["TEST_RANK_PROCESS"]), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def before(home: Any, name: str) -> None:
    """Kill the run when the function is called."""
    setattr(home, name, lambda *args, **kwargs: kill_this_run())


def after(home: Any, name: str, calls: int = 1) -> None:
    """Kill the run when the function has been called so often."""
    original, seen = getattr(home, name), []

    @functools.wraps(original)  # megatron-core looks at the signature
    def kill_after(*args: Any, **kwargs: Any) -> Any:
        answer = original(*args, **kwargs)
        seen.append(1)
        if len(seen) == calls:
            kill_this_run()
        return answer

    setattr(home, name, kill_after)


# What is arranged after the first good save, and the iterations that must be loadable after the kill.
MOMENTS: dict[str, tuple[Callable[[], None], list[int]]] = {
    "the folder is new": (lambda: after(folders, "begin"), [1]),
    "first tensor written": (lambda: after(filesystem_async, "_write_item"), [1]),
    "half of the tensors written": (lambda: after(filesystem_async, "_write_item", NUMBER_OF_TENSORS // 2), [1]),
    "tensors written, no index": (lambda: before(filesystem_async.FileSystemWriterAsync, "finish"), [1]),
    "index, no marker": (lambda: before(serialization, "save_config"), [1]),
    "marker, not yet named": (lambda: before(folders, "publish"), [1]),
    "index written, not yet named": (lambda: before(Path, "rename"), [1]),
    "named, old ones not pruned": (lambda: before(folders, "prune"), [1, 2]),
    "the old one half deleted": (lambda: after(os, "unlink"), [2]),
}


@pytest.fixture(scope="module")
def clean_processes() -> Any:
    """Starts processes that have imported everything and computed nothing; they may be killed cheaply."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def save_until_killed(run_dir: Path, async_save: bool, moment: str) -> None:
    """Save after steps 1 and 2; the second save is killed."""
    os.environ["TEST_RANK_PROCESS"] = str(os.getpid())
    layout = Layout()
    with initialized(layout.run_config(), World.from_environment()) as groups:
        toy = Toy(layout, layout.run_config(), groups)
        writer = checkpoint.CheckpointWriter(run_dir, groups, async_save=async_save, keep_latest=1)
        for iteration in (1, 2):
            toy.train(iteration, 1)
            torch.save(toy.modules[0].layers["0"].up.weight, run_dir / f"expected_{iteration}.pt")
            if iteration == 2:
                MOMENTS[moment][0]()
            writer.save(iteration, toy.chunks, toy.optimizer, toy.scheduler, {"iteration": iteration})
            writer.finalize()


def save_once_more(rank: int, run_dir: Path) -> None:
    layout = Layout()
    with initialized(layout.run_config(), World.from_environment()) as groups:
        toy = Toy(layout, layout.run_config(), groups)
        path = checkpoint.latest(run_dir)
        assert path is not None
        state = checkpoint.load(path, toy.chunks, toy.optimizer, toy.scheduler, groups)
        toy.train(state["iteration"], 1)
        writer = checkpoint.CheckpointWriter(run_dir, groups)
        writer.save(3, toy.chunks, toy.optimizer, toy.scheduler, {"iteration": 3})


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_save(pool: RankPool, clean_processes: Any, tmp_path: Path, moment: str) -> None:
    async_save = list(MOMENTS).index(moment) % 2 == 1
    process = clean_processes.Process(target=save_until_killed, args=(tmp_path, async_save, moment))
    process.start()
    process.join(timeout=120)
    assert process.exitcode == -signal.SIGKILL
    complete = checkpoint.completed(tmp_path)
    assert [checkpoint.iteration_of(path) for path in complete] == MOMENTS[moment][1]
    for path in complete:
        iteration = checkpoint.iteration_of(path)
        expected = torch.load(tmp_path / f"expected_{iteration}.pt", weights_only=False)
        assert torch.equal(checkpoint.read_full_state(path)["layers.0.up.weight"], expected)
        assert checkpoint.read_state(path) == {"iteration": iteration}
    pool.run(save_once_more, 1, tmp_path)
    left = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert left == {path.name for path in complete} | {"iter_0000003"}


def die_while_writing(rank: int, run_dir: Path) -> None:
    layout = Layout(tp=2)
    with initialized(layout.run_config(), World.from_environment()) as groups:
        toy = Toy(layout, layout.run_config(), groups)
        writer = checkpoint.CheckpointWriter(run_dir, groups)
        for iteration in (1, 2):
            toy.train(iteration, 1)
            if iteration == 2 and rank == 1:
                os.environ["TEST_RANK_PROCESS"] = str(os.getpid())
                after(filesystem_async, "_write_item", 3)
            writer.save(iteration, toy.chunks, toy.optimizer, toy.scheduler, {"iteration": iteration})


def test_one_rank_of_two_is_killed(pool: RankPool, tmp_path: Path) -> None:
    with pytest.raises(RankFailure, match="exit code -9"):
        pool.run(die_while_writing, 2, tmp_path)
    assert [path.name for path in checkpoint.completed(tmp_path)] == ["iter_0000001"]
    pool.run(save_once_more, 1, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"iter_0000001", "iter_0000003"}

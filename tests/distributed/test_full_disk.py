"""Disks that become full under a run: one line on all ranks, earlier checkpoints as they were, nothing else left."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron.core.dist_checkpointing import serialization
from megatron.core.dist_checkpointing.strategies import filesystem_async

from tests.distributed.layouts import LAYOUTS, small_run, train
from tests.distributed.rank_pool import _free_port
from tests.distributed.toy import Layout as ToyLayout
from tests.distributed.toy import Toy
from tests.small_disk import SmallDisk, small_disk
from tests.training.log_row import train_row
from vidtron import checkpoint
from vidtron.checkpoint import folders
from vidtron.config.storage import StorageError
from vidtron.config.world import World
from vidtron.data.latents.parts import PartWriter
from vidtron.parallel import initialized
from vidtron.parallel.mcore_versions import AT_LEAST_0_19
from vidtron.training.logging import MetricsFile

ROOT = Path(__file__).parents[2]


def no_room(*args: Any, **kwargs: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def no_room_in_cxx(*args: Any, **kwargs: Any) -> Any:
    """As torch tells of it."""
    try:
        no_room()
    except OSError:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598") from None


torch_save = torch.save


def no_room_for_plain_state(content: Any, target: Any, *args: Any, **kwargs: Any) -> None:
    if str(target).endswith("common.pt"):
        no_room_in_cxx()
    torch_save(content, target, *args, **kwargs)


# What fails on which rank of two.
PLACES: dict[str, tuple[Any, str, Callable[..., Any], int]] = {
    "the folder": (folders, "begin", no_room, 0),
    "plain state": (torch, "save", no_room_for_plain_state, 0),
    "tensors of rank 0": (filesystem_async, "_write_item", no_room, 0),
    "tensors of rank 1": (filesystem_async, "_write_item", no_room_in_cxx, 1),
    "index": (filesystem_async.FileSystemWriterAsync, "finish", no_room, 0),
    "marker": (serialization, "save_config", no_room, 0),
    "flushing": (folders, "flush_to_disk", no_room, 0),
}
if AT_LEAST_0_19:  # it is among the tensors
    del PLACES["plain state"]


def save_without_room(rank: int, run_dir: Path, async_save: bool, place: str) -> str:
    """Job: a good save and one that fails; what every rank is told."""
    layout = ToyLayout(tp=2)
    home, name, fail, failing = PLACES[place]
    with initialized(layout.run_config(), World.from_environment()) as groups, pytest.MonkeyPatch.context() as patch:
        toy = Toy(layout, layout.run_config(), groups)

        def save(writer: checkpoint.CheckpointWriter, iteration: int) -> None:
            writer.save(iteration, toy.chunks, toy.optimizer, toy.scheduler, {"iteration": iteration})
            writer.finalize()

        toy.train(1, 1)
        save(checkpoint.CheckpointWriter(run_dir, groups, async_save=async_save), 1)
        if rank == failing:
            patch.setattr(home, name, fail)
        with pytest.raises(StorageError) as caught:
            save(checkpoint.CheckpointWriter(run_dir, groups, async_save=async_save), 2)
        patch.undo()
        told = str(caught.value)
        assert len(told.splitlines()) == 1
        assert [path.name for path in run_dir.iterdir()] == ["iter_0000001"], "before the run has ended"
        groups.world.barrier().wait()
        save(checkpoint.CheckpointWriter(run_dir, groups, async_save=async_save), 3)
        return told


@pytest.mark.parametrize("async_save", [False, True], ids=["waiting", "in-the-background"])
@pytest.mark.parametrize("place", PLACES)
def test_a_save_fails_on_all_ranks(pool, tmp_path, place, async_save):
    told = pool.run(save_without_room, 2, tmp_path, async_save, place)
    assert told[0] == told[1]
    assert "No space left on device" in told[0]
    if place != "the folder":
        assert told[0].startswith(f"--save {tmp_path}: iter_0000002 cannot be written (")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["iter_0000001", "iter_0000003"]
    for path in checkpoint.completed(tmp_path):
        assert checkpoint.read_state(path) == {"iteration": checkpoint.iteration_of(path)}


def kill_the_writer(rank: int, run_dir: Path) -> str:
    layout = ToyLayout()
    owner = os.getpid()

    def killed(*args: Any) -> Any:
        assert os.getpid() != owner
        os.kill(os.getpid(), signal.SIGKILL)

    with initialized(layout.run_config(), World.from_environment()) as groups, pytest.MonkeyPatch.context() as patch:
        toy = Toy(layout, layout.run_config(), groups)
        patch.setattr(filesystem_async, "_write_item", killed)
        writer = checkpoint.CheckpointWriter(run_dir, groups, async_save=True)
        with pytest.raises(StorageError) as caught:
            writer.save(1, toy.chunks, toy.optimizer, toy.scheduler, {"iteration": 1})
            writer.finalize()
        return str(caught.value)


def test_the_process_that_saves_is_killed(pool, tmp_path):
    before = sorted(os.listdir("/dev/shm"))
    (told,) = pool.run(kill_the_writer, 1, tmp_path)
    assert "the process that wrote for rank 0 was killed" in told
    assert not list(tmp_path.iterdir())
    assert sorted(os.listdir("/dev/shm")) == before


def fail_once(rank: int, config: Any, home: Any, name: str, call: int) -> str:
    """Job: the trainer, in which a write fails on rank 0 (of metrics) or on the last rank (of latents)."""
    seen = []
    plain = getattr(home, name)

    def wrapped(self: Any, *args: Any) -> Any:
        seen.append(name)
        if len(seen) == call:
            if home is MetricsFile:
                raise StorageError("metrics.jsonl: cannot be written (No space left on device)")
            raise self._failure(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        return plain(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        if home is MetricsFile or rank == int(os.environ["WORLD_SIZE"]) - 1:
            patch.setattr(home, name, wrapped)
        with pytest.raises(StorageError) as caught:
            train(rank, config)
    return str(caught.value)


@pytest.mark.parametrize(
    ("home", "name", "call", "layout"),
    [
        (MetricsFile, "write", 2, "DP2"),
        (PartWriter, "append", 2, "DP2"),
        (PartWriter, "append", 1, "TP2"),
        (PartWriter, "sync", 1, "DP2"),
    ],
)
def test_a_run_ends_on_all_ranks(pool, shards, tmp_path, home, name, call, layout):
    """What it has done is saved, and another run goes on from there."""
    ranks = LAYOUTS[layout].ranks
    flags = {"save": tmp_path / "run", "load": tmp_path / "run", "train_iters": 6, "clip_window": "centre"}
    flags |= {"latent_cache": tmp_path / "cache", "save_interval": 3, "num_workers": 0, **LAYOUTS[layout].flags}
    config = small_run(shards, **flags)
    told = pool.run(fail_once, ranks, config, home, name, call)
    assert len(set(told)) == 1 and len(told[0].splitlines()) == 1
    assert "No space left on device" in told[0]
    (saved,) = checkpoint.completed(tmp_path / "run")
    assert 1 <= checkpoint.iteration_of(saved) <= 4
    assert pool.run(train, ranks, config)[0].iteration == 6


TINY = (
    "--model cogvideox-tiny --num-frames 9 --height 32 --width 48 --decoder pyav --num-workers 1 --micro-batch-size 1 "
    "--global-batch-size 2 --lr-warmup-iters 0 --no-tensorboard --save-interval 1 --train-iters"
).split()


def run_program(ranks: int, disk: SmallDisk, left: int, *words: object) -> list[tuple[int, str, str]]:
    """(exit status, stdout, stderr) of pretrain_video.py on each rank, without a launcher that says things itself."""
    port = _free_port()
    with disk.limits(left):
        started = [
            subprocess.Popen(
                [sys.executable, "pretrain_video.py", *TINY, *map(str, words)],
                cwd=ROOT,
                env={
                    **os.environ,
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(ranks),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                },
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(ranks)
        ]
        answers = [process.communicate(timeout=300) for process in started]
    return [(process.returncode, out, err) for process, (out, err) in zip(started, answers, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "mode"), [(1, "--no-async-save"), (1, "--async-save"), (2, "--async-save")])
def test_a_full_disk_under_the_program(shards, tmp_path, ranks, mode):
    with small_disk(tmp_path / "disk", 64 << 20) as disk:
        run_dir = disk.folder / "run"
        words = ["--data-path", shards, "--save", run_dir, "--load", run_dir, mode]
        assert [status for status, _, _ in run_program(ranks, disk, 64 << 20, 1, *words)] == [0] * ranks
        (kept,) = checkpoint.completed(run_dir)
        content = {path.name: path.read_bytes() for path in kept.iterdir()}
        largest = max(len(one) for one in content.values())
        disk.fill(left=largest // 2)
        # What a run that was killed has left is cleared before the room is needed.
        (run_dir / "unfinished_iter_0000009").mkdir()
        answers = run_program(ranks, disk, largest // 2, 3, *words)
        assert [status for status, _, _ in answers] == [1] * ranks, answers
        lines = [line for _, _, err in answers for line in err.splitlines()]
        assert len(lines) == 1 and lines[0].startswith(f"error: --save {run_dir}: iter_0000002 cannot be written ("), (
            lines
        )
        assert "No space left on device" in lines[0] or "File too large" in lines[0]
        assert not list(run_dir.glob("unfinished_*"))
        assert {path.name: path.read_bytes() for path in kept.iterdir()} == content
        disk.make_room()
        assert [status for status, _, _ in run_program(ranks, disk, 64 << 20, 3, *words)] == [0] * ranks
        rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
        assert [row["iteration"] for row in rows] == [1, 2, 3]


def test_metrics_rows_are_whole_or_not_there(tmp_path):
    with small_disk(tmp_path / "disk", 64 << 10) as disk:
        disk.fill(left=4 << 10)
        with disk.limits(4 << 10):
            file = MetricsFile(disk.folder)
            with pytest.raises(StorageError, match=rf"{disk.folder}/metrics.jsonl: cannot be written \("):
                for number in range(100):
                    file.write(train_row(iteration=number))
            file.close()
        rows = [json.loads(line) for line in (disk.folder / "metrics.jsonl").read_text().splitlines()]
        assert [row["iteration"] for row in rows] == list(range(len(rows))) and rows

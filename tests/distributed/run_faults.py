"""Accidents that befall one rank of a run, in the middle of it."""

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.layouts import train
from vidtron.data.errors import ShardError
from vidtron.data.shards import shard_reader
from vidtron.training.trainer import Trainer

MARK = "VIDTRON_TEST_RUN"
"""Environment variable by which the processes of a run are known."""


@dataclass(frozen=True)
class Fault:
    """What happens, after which step, to which rank."""

    name: str
    step: int
    rank: int


def train_with(rank: int, run: Any, fault: Fault) -> Any:
    """Job: the real trainer, and the accident."""
    plain = Trainer._step

    def step(self: Trainer, batches: Any) -> str | None:
        if self.progress.iteration == fault.step and rank == fault.rank:
            FAULTS[fault.name](self, batches)
        return plain(self, batches)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_step", step)
        patch.setattr(shard_reader, "PAUSES", (0.01, 0.01, 0.01))
        return train(rank, run)


def rank_process(rank: int, world_size: int, port: int, mark: str, run: Any, fault: Fault) -> None:
    """A process of its own, in the environment that torchrun would give it."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        MARK: mark,
    }
    # Tests started in the background of a shell ignore SIGINT, and so would the ranks.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    train_with(rank, run, fault)


def living(mark: str) -> list[str]:
    """Command lines of the processes that a marked run has started and that still live."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except (FileNotFoundError, ProcessLookupError, PermissionError):  # gone, or another user's
            continue
    return found


def _folder(trainer: Trainer) -> Path:
    return Path(trainer.config.data.data_path[1])


def _lose_shard(trainer: Trainer, batches: Any) -> None:
    (_folder(trainer) / "shard_000000.tar").unlink()


def _lose_folder(trainer: Trainer, batches: Any) -> None:
    shutil.rmtree(_folder(trainer))


def _refuse_reads(trainer: Trainer, batches: Any) -> None:
    def read(self: Any, shard: str, *_: Any) -> bytes:
        raise ShardError(f"{self.path / shard}: cannot be read, tried 4 times")

    shard_reader.LocalFolder.read = read  # type: ignore[method-assign]


def _stumble(trainer: Trainer, batches: Any) -> None:
    raise KeyError("a bug in the step")


def _signal(number: signal.Signals) -> Callable[[Trainer, Any], None]:
    return lambda trainer, batches: os.kill(os.getpid(), number)


def _interrupt_twice(trainer: Trainer, batches: Any) -> None:
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGINT)


def _kill_decoder(trainer: Trainer, batches: Any) -> None:
    os.kill(batches._source.loader._work._workers.processes()[0], signal.SIGKILL)


FAULTS: dict[str, Callable[[Trainer, Any], None]] = {
    "none": lambda trainer, batches: None,
    "shard gone": _lose_shard,
    "folder gone": _lose_folder,
    "reads refused": _refuse_reads,
    "bug": _stumble,
    "SIGKILL": _signal(signal.SIGKILL),
    "SIGINT": _signal(signal.SIGINT),
    "SIGINT twice": _interrupt_twice,
    "SIGTERM": _signal(signal.SIGTERM),
    "decoder killed": _kill_decoder,
}

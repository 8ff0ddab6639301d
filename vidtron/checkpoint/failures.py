"""A save that one rank cannot write fails on all ranks, in one line.

What rank 0 alone writes - the plain state, the index of the tensors, the marker - megatron-core and torch write
between collectives in which the other ranks would wait for a rank 0 that has left. So these functions do not raise:
what they would have raised is kept, and the ranks agree on it when the save is over (`CheckpointWriter`).
"""

import ctypes
import functools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from megatron.core.dist_checkpointing import serialization
from megatron.core.dist_checkpointing.strategies import common, filesystem_async
from torch.distributed.checkpoint.api import CheckpointException

from vidtron.config.storage import StorageError, reason_of

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_WRITERS = (
    (getattr(common, "TorchCommonSaveStrategy", None), "save_common"),
    (common, "save_common"),  # newer versions
    (filesystem_async.FileSystemWriterAsync, "finish"),
    (serialization, "save_config"),
)
_kept: list[Exception] = []


def keep_failures() -> None:
    """Have what rank 0 writes keep its errors, for `kept_failure`. May be called again."""
    for home, name in _WRITERS:
        function = getattr(home, name, None)
        if function is not None and not hasattr(function, "keeps_failures"):
            setattr(home, name, _keeping(function))


def _keeping(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def write(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            _kept.append(error)
            return None

    write.keeps_failures = True  # type: ignore[attr-defined]
    return write


def kept_failure() -> Exception | None:
    """Take out the first error that was kept since the last call."""
    failure = _kept[0] if _kept else None
    _kept.clear()
    return failure


def told(failure: Exception, folder: Path) -> Exception:
    """A writer's error as it can be handed to other processes: where it was the storage, with the system's reason.

    Args:
        failure: on the rank, and in the process, that wrote.
        folder: it wrote into.
    """
    reason = reason_of(failure, folder)
    return failure if reason is None else StorageError(reason)


def reason_not_saved(failure: Exception, folder: Path) -> str | None:
    """Why a save has failed, in a few words; None where `failure` is no matter of writing (a bug), or tells nothing.

    Args:
        failure: that a save has raised or kept on this rank.
        folder: it wrote into.
    """
    if not isinstance(failure, CheckpointException):
        return reason_of(failure, folder)
    wrapped = next(iter(failure.failures.values()), None)
    if wrapped is None:  # torch tells rank 0 alone
        return None
    error = wrapped[0]
    if "results_queue should not be empty" in str(error):
        rank = next(iter(failure.failures))
        return f"the process that wrote for rank {rank} was killed; for lack of memory?"
    return reason_of(error, folder) or str(error).removeprefix("Worker failure: ")


def in_background(parent: int, write: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run what writes a background save, in the process forked for it.

    It ends with its parent, without which the save cannot become complete; and signals are for the parent.

    Args:
        parent: its process id.
        write: called with the other arguments.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the training process has gone")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    return write(*args, **kwargs)

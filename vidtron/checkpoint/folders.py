"""Where a run's checkpoints lie, and which of them can be loaded.

A checkpoint is written under a name that no reader takes for one and gets its own name, `iter_0000100`, when it is
complete. So a save that is killed at any moment leaves the older checkpoints as they were.
"""

import contextlib
import errno
import fcntl
import os
import re
import shutil
from pathlib import Path

CONFIG_FILE = "config.yaml"
MANIFEST_FILE = "checksums.json"
_NAME = re.compile(r"iter_(\d{7,})")
_UNFINISHED = "unfinished_"
# What megatron-core and torch write last: the kind of checkpoint, and where each tensor lies.
_MARKERS = ("metadata.json", ".metadata")
_locks: dict[Path, int] = {}
"""Folders that this process writes into -> descriptor that holds a lock on them."""


def folder_name(iteration: int) -> str:
    """Name of the checkpoint taken after so many steps: `iter_0000100`."""
    return f"iter_{iteration:07d}"


def iteration_of(path: str | Path) -> int:
    """The number of steps in a checkpoint folder's name.

    Raises:
        ValueError: it is no checkpoint's name.
    """
    path = Path(path)
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path} is not named like a checkpoint; accepted: iter_ and at least 7 digits")
    return int(match[1])


def is_complete(path: str | Path) -> bool:
    """Whether the folder is a checkpoint that was written to its end, though some of it may be lost since.

    Its checksums came last, and tell of files that are missing now.
    """
    path = Path(path)
    if _NAME.fullmatch(path.name) is None:
        return False
    return (path / MANIFEST_FILE).is_file() or all((path / marker).is_file() for marker in _MARKERS)


def completed(run_dir: str | Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        return []
    return sorted((path for path in run_dir.iterdir() if is_complete(path)), key=iteration_of)


def latest(run_dir: str | Path) -> Path | None:
    """The newest complete checkpoint of a run."""
    return next(reversed(completed(run_dir)), None)


def resolve_checkpoint(path: str | Path) -> Path | None:
    """The iter_* folder that a path leads to: itself, or the newest complete one of a run folder; None without any."""
    return Path(path) if is_complete(path) else latest(path)


def begin(run_dir: str | Path, iteration: int) -> Path:
    """A new empty folder to write a checkpoint into; what killed saves have left is removed.

    Raises:
        OSError: it cannot be made; or another process is writing this very checkpoint.
    """
    run_dir = Path(run_dir)
    clear_unfinished(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    unfinished = run_dir / (_UNFINISHED + folder_name(iteration))
    try:
        unfinished.mkdir()
    except FileExistsError as error:
        raise OSError(errno.EBUSY, f"another process is writing {unfinished.name}", str(run_dir)) from error
    # Held by this process and those forked from it to write, however they end.
    descriptor = os.open(unfinished, os.O_RDONLY)
    _locks[unfinished] = descriptor
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return unfinished


def clear_unfinished(run_dir: Path) -> None:
    """Remove what killed saves have left in a run's folder, and the room it takes; not what is being written."""
    for leftover in run_dir.glob(f"{_UNFINISHED}*"):
        if not _is_being_written(leftover):
            discard(leftover)


def discard(unfinished: Path) -> None:
    """Remove a folder from `begin`, with all that is in it."""
    _release(unfinished)
    shutil.rmtree(unfinished, ignore_errors=True)


def _is_being_written(folder: Path) -> bool:
    """Whether another living process holds the folder's lock."""
    if folder in _locks:
        return False
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(descriptor)
    return False


def _release(unfinished: Path) -> None:
    descriptor = _locks.pop(unfinished, None)
    if descriptor is not None:
        os.close(descriptor)


def publish(unfinished: Path) -> Path:
    """Give a folder from `begin` its name. In one step: readers see all of the checkpoint or nothing."""
    final = unfinished.with_name(unfinished.name.removeprefix(_UNFINISHED))
    for file in unfinished.iterdir():
        flush_to_disk(file)
    flush_to_disk(unfinished)
    if final.exists():  # saved again after a resumption from an older checkpoint
        _remove(final)
    unfinished.rename(final)
    _release(unfinished)
    flush_to_disk(final.parent)
    return final


def up_to(run_dir: Path, last: Path) -> list[Path]:
    """The complete checkpoints of a run that are no later than one of them, oldest first."""
    return [path for path in completed(run_dir) if iteration_of(path) <= iteration_of(last)]


def prune(run_dir: str | Path, keep: int, last: Path | None = None, spared: Path | None = None) -> list[Path]:
    """Delete all but the newest `keep` complete checkpoints; returns the deleted ones.

    Args:
        run_dir: the run folder.
        keep: 1 or more.
        last: later ones are neither counted nor touched: a resumption has passed them over.
        spared: one that stays besides.

    Raises:
        ValueError: `keep` would leave none.
    """
    if keep < 1:
        raise ValueError(f"--keep-latest {keep}; accepted: 1 or more")
    known = completed(run_dir) if last is None else up_to(Path(run_dir), last)
    old = [path for path in known[:-keep] if path != spared]
    for path in old:
        _remove(path)
    return old


def _remove(path: Path) -> None:
    """Delete a checkpoint, under another name: half of one must not be taken for a whole."""
    doomed = path.with_name(f"{_UNFINISHED}removed_{path.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    shutil.rmtree(doomed)


def flush_to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

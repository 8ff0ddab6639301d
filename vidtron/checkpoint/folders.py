"""Where a run's checkpoints lie, and which of them can be loaded.

A checkpoint is written under a name that no reader takes for one and gets its own name, `iter_0000100`, when it is
complete. So a save that is killed at any moment leaves the older checkpoints as they were.
"""

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


def folder_name(iteration: int) -> str:
    """Name of the checkpoint taken after so many steps: `iter_0000100`."""
    return f"iter_{iteration:07d}"


def iteration_of(path: Path) -> int:
    """The number of steps in a checkpoint folder's name.

    Raises:
        ValueError: it is no checkpoint's name.
    """
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path} is not named like a checkpoint; accepted: iter_ and at least 7 digits")
    return int(match[1])


def is_complete(path: Path) -> bool:
    """Whether the folder is a checkpoint that was written to its end, though some of it may be lost since.

    Its checksums came last, and tell of files that are missing now.
    """
    if _NAME.fullmatch(path.name) is None:
        return False
    return (path / MANIFEST_FILE).is_file() or all((path / marker).is_file() for marker in _MARKERS)


def completed(run_dir: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    if not run_dir.is_dir():
        return []
    return sorted((path for path in run_dir.iterdir() if is_complete(path)), key=iteration_of)


def latest(run_dir: Path) -> Path | None:
    """The newest complete checkpoint of a run."""
    return next(reversed(completed(run_dir)), None)


def begin(run_dir: Path, iteration: int) -> Path:
    """A new empty folder to write a checkpoint into; what killed saves have left is removed."""
    run_dir.mkdir(parents=True, exist_ok=True)
    for leftover in run_dir.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    unfinished = run_dir / (_UNFINISHED + folder_name(iteration))
    unfinished.mkdir()
    return unfinished


def publish(unfinished: Path) -> Path:
    """Give a folder from `begin` its name. In one step: readers see all of the checkpoint or nothing."""
    final = unfinished.with_name(unfinished.name.removeprefix(_UNFINISHED))
    for file in unfinished.iterdir():
        flush_to_disk(file)
    flush_to_disk(unfinished)
    if final.exists():  # saved again after a resumption from an older checkpoint
        _remove(final)
    unfinished.rename(final)
    flush_to_disk(final.parent)
    return final


def up_to(run_dir: Path, last: Path) -> list[Path]:
    """The complete checkpoints of a run that are no later than one of them, oldest first."""
    return [path for path in completed(run_dir) if iteration_of(path) <= iteration_of(last)]


def prune(run_dir: Path, keep: int, last: Path | None = None, spared: Path | None = None) -> list[Path]:
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
    known = completed(run_dir) if last is None else up_to(run_dir, last)
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

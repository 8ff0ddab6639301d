"""A folder that is there whole or not at all."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from vidtron.checkpoint.folders import flush_to_disk
from vidtron.config.storage import writing

_UNFINISHED = ".unfinished_"


@contextlib.contextmanager
def published(target: Path, *, overwrite: bool, only: str | None = None) -> Iterator[Path]:
    """An empty folder beside `target` to fill; it gets its name when the block ends, and is removed if that raises.

    Args:
        target: the name.
        overwrite: replace what has it.
        only: the file in the folder that gets the name, instead of the folder.

    A killed process leaves `.unfinished_NAME`, which no reader takes for a checkpoint; the next attempt removes it.

    Raises:
        FileExistsError: `target` exists and is not empty, and it is not to be overwritten.
        StorageError: the folder cannot be made, or not be brought to the disk.
    """
    refuse_existing(target, overwrite=overwrite)
    unfinished = target.with_name(_UNFINISHED + target.name)
    shutil.rmtree(unfinished, ignore_errors=True)
    with writing(target, "accepted: a place with room and permission to write"):
        unfinished.mkdir(parents=True)
    try:
        yield unfinished
        with writing(target, "make room there; nothing is left of this attempt"):
            for path in [*unfinished.rglob("*"), unfinished]:
                flush_to_disk(path)
            _replace(target, unfinished if only is None else unfinished / only)
            shutil.rmtree(unfinished, ignore_errors=True)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    flush_to_disk(target.parent)


def refuse_existing(target: Path, *, overwrite: bool) -> None:
    """Raise FileExistsError if `target` exists, is not empty and is not to be overwritten."""
    taken = target.exists() and not (target.is_dir() and not any(target.iterdir()))
    if taken and not overwrite:
        raise FileExistsError(f"--save {target}: exists; accepted: a new or empty folder, or --overwrite")


def _replace(target: Path, unfinished: Path) -> None:
    old = target.with_name(f"{_UNFINISHED}old_{target.name}")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    unfinished.rename(target)
    if old.is_dir():
        shutil.rmtree(old)
    else:
        old.unlink(missing_ok=True)

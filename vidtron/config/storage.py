"""What cannot be written - a full disk, a quota, a file system that went read-only or fails - told in one line."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

EXIT_STATUS = 1
"""Status of a program that could not write."""

_PROBE_BYTES = 1 << 20


class StorageError(RuntimeError):
    """Something could not be written. The message is one line: what, why, and what to do."""


def reason_of(error: BaseException, folder: Path) -> str | None:
    """Why a write into a folder failed; None where it was not the storage.

    torch's and other writers in C++ lose the system's error; then the folder is tried with a small file.

    Args:
        error: what the writer raised.
        folder: where it wrote.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError):
            return seen.strerror or str(seen)
        seen = seen.__cause__ or seen.__context__
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(_PROBE_BYTES))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as failure:
        return failure.strerror or str(failure)
    return None


def cannot_write(path: Path, reason: str, advice: str) -> StorageError:
    """The error to tell: `path` could not be written, why, and what to do."""
    return StorageError(f"{path}: cannot be written ({reason}); {advice}")


@contextlib.contextmanager
def writing(path: Path, advice: str) -> Iterator[None]:
    """Around what writes to a path.

    Args:
        path: file or folder that the message names.
        advice: what to do.

    Raises:
        StorageError: in the place of an OSError, or of what else a writer raised for want of storage.
    """
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error.strerror or str(error), advice) from error
    except StorageError:
        raise
    except RuntimeError as error:  # of torch's writers
        reason = reason_of(error, next(folder for folder in path.absolute().parents if folder.is_dir()))
        if reason is None:
            raise
        raise cannot_write(path, reason, advice) from error


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; the file takes its own name when the block ends, and is gone if that raises.

    Its folder is made. So readers see all of it or nothing, and an earlier file of that name stays until then.
    """
    part = path.with_name(f".{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield part
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise

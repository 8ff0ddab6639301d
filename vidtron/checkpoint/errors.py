"""What is wrong with a checkpoint."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class CheckpointError(RuntimeError):
    """A checkpoint cannot be loaded into this run."""


class UnreadableFileError(CheckpointError, ValueError):
    """A file is damaged, or holds what no checkpoint does; the message is one line and names the file."""

    def __init__(self, file: Path | str, reason: object, *, unsafe: bool = False):
        """
        Args:
            file: named first.
            reason: what is wrong.
            unsafe: the file asks for code to be run.
        """
        super().__init__(f"{file}: {' '.join(str(reason).split())}")
        self.unsafe = unsafe

    def __reduce__(self) -> tuple[object, ...]:  # ranks tell each other of it
        return _again, (self.args[0], self.unsafe)


def _again(message: str, unsafe: bool) -> UnreadableFileError:
    error = UnreadableFileError("", "", unsafe=unsafe)
    error.args = (message,)
    return error


@contextmanager
def unreadable(file: Path | str) -> Iterator[None]:
    """Whatever the block raises over a file's content becomes an `UnreadableFileError`; those pass as they are."""
    try:
        yield
    except UnreadableFileError:
        raise
    except Exception as error:  # wrong content makes libraries raise anything
        reason = " ".join(str(error).split())[:300]
        raise UnreadableFileError(
            file, f"cannot be read, it is truncated or damaged: {type(error).__name__}{reason and ': '}{reason}"
        ) from error

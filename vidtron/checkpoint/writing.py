"""Which process writes a checkpoint's files, and how it reports to the rank.

megatron-core 0.16.1 starts, for each save of each rank, two writer processes and a manager process that carries their
results (dist_checkpointing/strategies/filesystem_async.py:51 and 267). All three are dangerous: the manager starts by
importing the main program once more - seconds and hundreds of megabytes for each rank, and a hang where the program
lacks the `__main__` guard - and outlives a rank that is killed; and a rank waits forever for a writer that was killed,
say for lack of memory. 0.19 writes in the process it is called in, but still has the manager.

What is written passes through `HashingFile`; the checksums come to the rank with the results.
"""

import functools
import os
import pickle
import queue
from collections.abc import Callable
from pathlib import Path
from typing import Any

from megatron.core.dist_checkpointing.strategies import filesystem_async

from vidtron.checkpoint.failures import keep_failures, told
from vidtron.checkpoint.manifest import FileChecksums, HashingFile, without_crc32

_closed: dict[Path, FileChecksums] = {}
"""Of files that this process has written since it last handed results over."""


def adapt_writing() -> None:
    """Write in the calling process: the rank itself, or the one process forked for a background save."""
    global _results
    keep_failures()
    _results = _Results()  # of this process: ranks may have been forked from one that has imported this
    for name in ("_get_write_results_queue", "get_write_results_queue"):  # 0.16, 0.19
        if hasattr(filesystem_async, name):
            setattr(filesystem_async, name, lambda *args, **kwargs: _results)
    writer = filesystem_async.FileSystemWriterAsync
    if hasattr(writer, "write_preloaded_data_multiproc"):  # 0.16
        writer.write_preloaded_data_multiproc = staticmethod(_write_here)
    elif not hasattr(writer.write_preloaded_data, "raises"):
        writer.write_preloaded_data = staticmethod(_raising(writer.write_preloaded_data))
    filesystem_async.open = _open  # type: ignore[attr-defined]


def _raising(write: Callable[..., Any]) -> Callable[..., Any]:
    """`write_preloaded_data` of 0.19, which returns its error to a caller that tells nothing but the error's class."""

    @functools.wraps(write)
    def raising(*args: Any, **kwargs: Any) -> Any:
        answer = write(*args, **kwargs)
        if answer is not None and isinstance(answer[1], Exception):
            raise told(answer[1], Path(kwargs["write_bucket"][0]).parent)
        return answer

    raising.raises = True  # type: ignore[attr-defined]
    return raising


def take_checksums(folder: Path) -> dict[str, FileChecksums]:
    """Name -> checksums of the files that this rank, or the process it forked, has written into a folder.

    They are there once megatron-core has fetched the results of the save, and are forgotten here.
    """
    found = {path.name: entry for path, entry in _results.checksums.items() if path.parent == folder}
    _results.checksums.clear()
    return found


class _WrittenFile(HashingFile):
    """Notes its checksums when it is whole."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._path = path

    def __enter__(self) -> "_WrittenFile":
        self._crc32 = without_crc32()
        self._crc32.__enter__()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._crc32.__exit__(None, None, None)
        super().__exit__(kind, error, trace)
        if error is None:
            _closed[self._path] = self.checksums()


def _open(path: str, mode: str) -> _WrittenFile:
    """`open` of `FileSystemWriterAsync.write_preloaded_data`."""
    if mode != "wb":
        raise ValueError(f"{path}: mode {mode}; accepted: wb")
    return _WrittenFile(Path(path))


class SharedResult:
    """One result, handed from a forked process to its parent through memory that both see."""

    def __init__(self) -> None:
        self._memory = os.memfd_create("vidtron-checkpoint-result")

    def put(self, result: Any) -> None:
        """Replace what is there; called by one process at a time."""
        data = pickle.dumps(result)
        os.ftruncate(self._memory, 0)
        written = 0
        while written < len(data):
            written += os.pwrite(self._memory, data[written:], written)

    def get_nowait(self) -> Any:
        """Take out what is there.

        Raises:
            queue.Empty: nothing.
        """
        data = b""
        while chunk := os.pread(self._memory, 1 << 24, len(data)):
            data += chunk
        if not data:
            raise queue.Empty
        os.ftruncate(self._memory, 0)
        return pickle.loads(data)


class _Results(SharedResult):
    """Results of a writing process, with the checksums of its files."""

    def __init__(self) -> None:
        super().__init__()
        self.checksums: dict[Path, FileChecksums] = {}

    def put(self, result: Any) -> None:
        super().put((result, dict(_closed)))
        _closed.clear()

    def get_nowait(self) -> Any:
        result, checksums = super().get_nowait()
        self.checksums |= checksums
        return result


_results = _Results()
"""Where the results of this process's saves are."""


def _write_here(transforms: list[Any], use_msc: bool, rank: int, buckets: list[Any], results: SharedResult) -> None:
    """`FileSystemWriterAsync.write_preloaded_data_multiproc` without processes."""
    written: dict[int, Any] = {}
    for number, bucket in enumerate(buckets):
        answers: queue.Queue[tuple[int, Any]] = queue.Queue()
        counter: queue.Queue[int] = queue.Queue()
        counter.put(number)
        filesystem_async.FileSystemWriterAsync.write_preloaded_data(
            transforms, number, bucket, answers, counter, use_fsync=True, **({"use_msc": True} if use_msc else {})
        )
        _, written[number] = answers.get_nowait()
    failure = next((answer for answer in written.values() if isinstance(answer, Exception)), None)
    results.put(written if failure is None else told(failure, Path(buckets[0][0]).parent))

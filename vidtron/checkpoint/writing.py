"""Which process writes a checkpoint's files, and how it reports to the rank.

megatron-core 0.16.1 starts, for each save of each rank, two writer processes and a manager process that carries their
results (dist_checkpointing/strategies/filesystem_async.py:51 and 267). All three are dangerous: the manager starts by
importing the main program once more - seconds and hundreds of megabytes for each rank, and a hang where the program
lacks the `__main__` guard - and outlives a rank that is killed; and a rank waits forever for a writer that was killed,
say for lack of memory. 0.19 writes in the process it is called in, but still has the manager.
"""

import os
import pickle
import queue
from pathlib import Path
from typing import Any

from megatron.core.dist_checkpointing.strategies import filesystem_async

from vidtron.checkpoint.failures import keep_failures, told


def adapt_writing() -> None:
    """Write in the calling process: the rank itself, or the one process forked for a background save."""
    keep_failures()
    results = SharedResult()
    for name in ("_get_write_results_queue", "get_write_results_queue"):  # 0.16, 0.19
        if hasattr(filesystem_async, name):
            setattr(filesystem_async, name, lambda *args, **kwargs: results)
    writer = filesystem_async.FileSystemWriterAsync
    if hasattr(writer, "write_preloaded_data_multiproc"):  # 0.16
        writer.write_preloaded_data_multiproc = staticmethod(_write_here)


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

"""How the processes that write a checkpoint report to the rank that started them."""

import os
import pickle
import queue
from typing import Any

from megatron.core.dist_checkpointing.strategies import filesystem_async


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
        size = os.fstat(self._memory).st_size
        if size == 0:
            raise queue.Empty
        data = b""
        while len(data) < size:
            data += os.pread(self._memory, size - len(data), len(data))
        os.ftruncate(self._memory, 0)
        return pickle.loads(data)


def use_shared_results() -> None:
    """Let megatron-core's checkpoint writers report through a `SharedResult`.

    Its own channel (dist_checkpointing/strategies/filesystem_async.py:51) is a manager process. That one starts by
    importing the main program once more - seconds and hundreds of megabytes for each rank, and a hang where the
    program lacks the `__main__` guard - and it outlives a rank that is killed. The writers themselves are forked.
    """
    result = SharedResult()
    for name in ("_get_write_results_queue", "get_write_results_queue"):  # 0.16, 0.19
        if hasattr(filesystem_async, name):
            setattr(filesystem_async, name, lambda *args, **kwargs: result)

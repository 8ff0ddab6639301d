"""Results of the process that writes."""

import os
import queue

import pytest

from vidtron.checkpoint.writing import SharedResult


def test_result_of_a_forked_process() -> None:
    result = SharedResult()
    expected = {"items": list(range(100_000))}  # more than a pipe holds
    child = os.fork()
    if child == 0:
        result.put("to be replaced, and longer in the file than nothing")
        result.put(expected)
        os._exit(0)
    os.waitpid(child, 0)
    assert result.get_nowait() == expected
    with pytest.raises(queue.Empty):
        result.get_nowait()


def test_a_shorter_result_replaces_a_longer_one() -> None:
    result = SharedResult()
    result.put("x" * 1000)
    result.put("y")
    assert result.get_nowait() == "y"

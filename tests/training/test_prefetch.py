import threading
import time

import pytest

from vidtron.training.prefetch import Prefetcher


class Counted:
    """0, 1, 2 ...; knows how many were made and by which thread. The number `broken` cannot be made."""

    def __init__(self, end=100, broken=None):
        self.made, self.threads = 0, set()
        self.end, self.broken = end, broken

    def __iter__(self):
        return self

    def __next__(self):
        self.threads.add(threading.current_thread())
        if self.made == self.broken:
            raise ValueError(f"{self.made} is broken")
        if self.made == self.end:
            raise StopIteration
        self.made += 1
        return self.made - 1


def made_in_the_end(counted, expected):
    for _ in range(6000):
        if counted.made == expected:
            time.sleep(0.02)  # it must not go further
            return counted.made
        time.sleep(0.01)
    return counted.made


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_results_are_made_ahead_and_in_order(depth):
    counted = Counted()
    prefetcher = Prefetcher(counted, depth)
    assert made_in_the_end(counted, depth) == depth
    assert [next(prefetcher) for _ in range(3)] == [0, 1, 2]
    assert made_in_the_end(counted, 3 + depth) == 3 + depth
    assert threading.current_thread() not in counted.threads
    prefetcher.close()
    assert counted.made == 3 + depth


def test_closing_at_once_makes_what_is_due():
    """However slow a rank's thread is: the other ranks' have made as many."""
    counted = Counted()
    slow = (time.sleep(0.02) or number for number in counted)
    prefetcher = Prefetcher(slow, 3)
    next(prefetcher)
    prefetcher.close()
    assert counted.made == 4
    prefetcher.close()


def test_depth_zero_works_in_the_callers_thread():
    counted = Counted()
    prefetcher = Prefetcher(counted, 0)
    assert counted.made == 0
    assert next(prefetcher) == 0
    assert counted.threads == {threading.current_thread()}
    prefetcher.close()


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_the_end_and_errors_come_in_their_place(depth):
    prefetcher = Prefetcher(Counted(end=2), depth)
    assert list(prefetcher) == [0, 1]
    prefetcher.close()
    prefetcher = Prefetcher(Counted(broken=2), depth)
    assert [next(prefetcher), next(prefetcher)] == [0, 1]
    with pytest.raises(ValueError, match="2 is broken"):
        next(prefetcher)
    prefetcher.close()

"""Doing the next pieces of work while the current one is used."""

import threading
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

Result = TypeVar("Result")
_JOIN_SECONDS = 60.0


class Prefetcher(Generic[Result]):
    """Takes results from an iterator in one background thread, up to `depth` before they are asked for.

    The thread goes equally far on every rank of a run: when n results have been asked for, n + `depth` of them are
    made (or all there are), also after `close`. So the iterator may hold collectives, and a run that is ended early
    leaves no rank waiting for another.
    """

    def __init__(self, results: Iterator[Result], depth: int) -> None:
        """
        Args:
            results: used in the thread alone.
            depth: results made ahead; 0: each is made when it is asked for, in the caller's thread.
        """
        self._results = results
        self._ready: deque[Result] = deque()
        self._due, self._made = depth, 0
        self._error: BaseException | None = None
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="prefetch", daemon=True) if depth > 0 else None
        if self._thread is not None:
            self._thread.start()

    def __iter__(self) -> "Prefetcher[Result]":
        return self

    def __next__(self) -> Result:
        if self._thread is None:
            return next(self._results)
        with self._changed:
            self._due += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._ready or self._error is not None)
            if self._ready:
                return self._ready.popleft()
            assert self._error is not None
            raise self._error

    def close(self) -> None:
        """Let the thread finish what is due, and end it; what it has made is dropped. May be called again."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(_JOIN_SECONDS)  # not for ever: another rank may have died within a collective

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._made < self._due or self._closing)
                if self._made == self._due:
                    return
            try:
                result = next(self._results)
            except BaseException as error:  # raised again in the thread that asks, StopIteration too
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return
            with self._changed:
                self._ready.append(result)
                self._made += 1
                self._changed.notify_all()

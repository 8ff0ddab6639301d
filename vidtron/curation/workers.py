"""Processes that measure rows. What a file makes a library do - hang, or take the whole process with it - costs that
file's row and nothing else."""

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from vidtron.curation.step import Measure, RowStep, failed, rows_of
from vidtron.curation.table import CurationError, Row

_TRIES = 2


@dataclass
class _Job:
    number: int
    row: Row
    tries: int = 0


class _Worker:
    """One process and what it is doing."""

    def __init__(self, step: RowStep, number: int, threads: int) -> None:
        # Spawned, not forked: CUDA, OpenCV's and ONNX's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        self.number = number
        self.job: _Job | None = None
        self.ready = False
        self.started = 0.0
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, step, number, threads), daemon=True)
        self.process.start()
        theirs.close()  # so that the end of the process is the end of the pipe

    def take(self, job: _Job) -> None:
        """Begin a row's job."""
        self.job = job
        self.started = time.monotonic()
        try:
            self.connection.send(job.row)
        except OSError:
            return  # it has died: reading from it tells the same

    def stop(self) -> str:
        """End the process at once; says how it ended where it had ended by itself."""
        self.process.join(timeout=1.0)
        status = self.process.exitcode
        self.process.kill()
        self.process.join()
        self.connection.close()
        return f"signal {-status}" if status is not None and status < 0 else f"status {status}"


class Crew:
    """`count` processes that work on the rows of one step, with the step opened once in each; 0: in this process."""

    def __init__(self, step: RowStep, count: int, row_seconds: float) -> None:
        self._step = step
        self._row_seconds = row_seconds
        self._threads = max(1, (os.cpu_count() or 1) // max(1, count))
        self._workers = [_Worker(step, number, self._threads) for number in range(count)]
        self._measure = None if count else _opened(step, 0)

    def map(self, rows: Iterable[tuple[int, Row]]) -> Iterator[tuple[int, list[Row]]]:
        """(number, rows it becomes) for each (number, row), as they get ready.

        A row whose process dies, or that takes too long, is tried once more in a new process and then gets an error.

        Raises:
            CurationError: the step cannot be opened.
        """
        if self._measure is not None:
            for number, row in rows:
                yield number, rows_of(self._step, self._measure, row)
            return
        source = (_Job(number, row) for number, row in rows)
        again: deque[_Job] = deque()
        while True:
            for worker in self._workers:
                if worker.job is None and (job := again.popleft() if again else next(source, None)) is not None:
                    worker.take(job)
            busy = [worker for worker in self._workers if worker.job is not None]
            if not busy:
                return
            readable = wait([worker.connection for worker in busy], timeout=self._patience(busy))
            for worker in busy:
                if worker.connection in readable or self._overdue(worker):
                    yield from self._hear(worker, again)

    def close(self) -> None:
        """End all worker processes."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.stop()
        self._workers = []

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def _patience(self, busy: list[_Worker]) -> float:
        due = min((worker.started for worker in busy if worker.ready), default=time.monotonic()) + self._row_seconds
        return max(0.0, due - time.monotonic())

    def _overdue(self, worker: _Worker) -> bool:
        return worker.ready and time.monotonic() - worker.started >= self._row_seconds

    def _hear(self, worker: _Worker, again: deque[_Job]) -> Iterator[tuple[int, list[Row]]]:
        """Take in what a worker says, or that it is gone."""
        job = worker.job
        assert job is not None
        if self._overdue(worker) and not worker.connection.poll():
            worker.process.kill()
            reason = f"took more than {self._row_seconds:g} seconds"
        else:
            try:
                kind, content = worker.connection.recv()
            except (EOFError, OSError):
                kind, content = "died", None
            if kind == "ready":
                worker.ready = True
                worker.started = time.monotonic()
                return
            if kind == "unusable":
                raise CurationError(content)
            if kind == "rows":
                worker.job = None
                yield job.number, content
                return
            reason = "its process died"
        how = worker.stop()
        if not worker.ready:
            raise CurationError(
                f"{self._step.name}: a process ended while it loaded what the step needs ({how}); with signal 9 the "
                "memory was probably too small: accepted: fewer --workers"
            )
        self._workers[worker.number] = _Worker(self._step, worker.number, self._threads)
        job.tries += 1
        if job.tries < _TRIES:
            again.append(job)
        else:
            told = reason if reason.startswith("took") else f"{reason} ({how})"
            yield job.number, [failed(self._step, job.row, f"{told}, {_TRIES} times")]


def _opened(step: RowStep, number: int) -> Measure:
    try:
        return step.open(number)
    except Exception as error:  # whatever a library raises for weights it does not like
        raise CurationError(f"{step.name}: {' '.join(str(error).split()) or type(error).__name__}") from error


def _serve(connection: Connection, step: RowStep, number: int, threads: int) -> None:
    """A worker's life: open the step, then answer each row, until the pipe ends."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    for name in ("OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM"):
        os.environ.setdefault(name, str(threads) if name == "OMP_NUM_THREADS" else "false")
    try:
        measure = _opened(step, number)
    except CurationError as error:
        _send(connection, ("unusable", str(error)))
        return
    _send(connection, ("ready", None))
    while True:
        try:
            row = connection.recv()
        except (EOFError, OSError):
            return
        if not _send(connection, ("rows", rows_of(step, measure, row))):
            return


def _send(connection: Connection, message: Any) -> bool:
    try:
        connection.send(message)
    except OSError:  # the parent is gone
        return False
    return True

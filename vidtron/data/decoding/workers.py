"""Decoding processes: started once, watched, replaced when they die, gone when their parent is."""

import json
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from typing import Any

from vidtron.data.decoding.frames import ClipReport, ClipTask, FrameReader
from vidtron.data.decoding.shared_frames import Channel, SharedFrames
from vidtron.data.errors import BadClipError

logger = logging.getLogger(__name__)

CLIP_SECONDS = 300.0
"""A process that takes longer for one clip is taken for hung and replaced."""
START_SECONDS = 120.0
MOST_DEATHS = 3
"""Processes that one clip may cost before it counts as bad."""
# A scheduler or a terminal sends these to the whole group; the training process alone decides what they mean. A
# process inherits the blocked signals of the thread that starts it: there is no moment in which they would count.
_BLOCKED = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2}
_PROGRAM = "import json, sys; sys.path[:] = json.loads(sys.argv[3]); from vidtron.data.decoding.worker import main; "
_PROGRAM += "main(int(sys.argv[1]), int(sys.argv[2]))"


class WorkersClosedError(RuntimeError):
    """The pool was closed while a clip was being decoded."""


class _DeadWorkerError(RuntimeError):
    """A process died or hung; the message says how."""


class WorkerPool:
    """Decodes clips in processes. `run` is called by several threads, each of which waits for its clip.

    Processes start with their first clip. They end with their parent, however that ends, and with the thread that
    started them: those threads live until `close`.
    """

    def __init__(self, reader: FrameReader, num_workers: int) -> None:
        """
        Args:
            reader: what decodes in each process. num_workers: processes.
        """
        self.reader = reader
        self.deaths = 0
        """Processes that died or hung."""
        self._idle: queue.LifoQueue[_Seat] = queue.LifoQueue()
        self._seats = [_Seat() for _ in range(num_workers)]
        for seat in self._seats:
            self._idle.put(seat)
        self._lock = threading.Lock()
        self._closed = False

    def run(self, task: ClipTask, frames: SharedFrames) -> ClipReport:
        """Decode a clip into shared memory.

        Raises:
            BadClipError: no decoder reads it, or three processes died of it.
            RuntimeError: no process can be started.
            WorkersClosedError: the pool is closed.
            Exception: whatever else reading raised, ShardError for one.
        """
        for _ in range(MOST_DEATHS):
            seat = self._idle.get()
            try:
                answer = self._worker_of(seat).run(task, frames)
            except _DeadWorkerError as error:
                seat.empty()
                self._tell(task, error)
                continue
            finally:
                self._idle.put(seat)
            if isinstance(answer, Exception):
                raise answer
            return answer
        raise BadClipError(str(task.sample.shard), task.sample.key, "its decoder died")

    def processes(self) -> list[int]:
        """Ids of the processes that run."""
        return [seat.worker.process.pid for seat in self._seats if seat.worker is not None]

    def close(self) -> None:
        """End all processes now, whatever they are doing. May be called again."""
        with self._lock:
            self._closed = True
        for seat in self._seats:
            seat.empty()

    def _worker_of(self, seat: "_Seat") -> "_Worker":
        with self._lock:  # no process starts after `close` has ended them
            if self._closed:
                raise WorkersClosedError("the decoding processes are closed")
            if seat.worker is None:
                seat.worker = _Worker()
            worker = seat.worker
        if not worker.ready:
            try:
                worker.get_ready(self.reader)
            except _DeadWorkerError as error:
                seat.empty()
                self._raise_if_closed()
                raise RuntimeError(f"a decoding process (--num-workers) did not start: {error}") from error
        return worker

    def _tell(self, task: ClipTask, error: _DeadWorkerError) -> None:
        self._raise_if_closed()
        with self._lock:
            self.deaths += 1
            first = self.deaths == 1
        if first:
            logger.warning(
                "a decoding process %s while it read sample %s of %s; its clips go to a new one. Further ones are "
                "not told of", error, task.sample.key, task.sample.shard,
            )  # fmt: skip

    def _raise_if_closed(self) -> None:
        if self._closed:
            raise WorkersClosedError("the decoding processes are closed")


class _Seat:
    """Place of one process, which may be replaced."""

    def __init__(self) -> None:
        self.worker: _Worker | None = None

    def empty(self) -> None:
        worker, self.worker = self.worker, None
        if worker is not None:
            worker.end()


class _Worker:
    """One process, from the parent's side."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self._channel = Channel(ours)
        self.ready = False
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
        try:
            with theirs:
                self.process = _started(theirs.fileno())
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def get_ready(self, reader: FrameReader) -> None:
        """Wait until it is up."""
        self._exchange(reader, None, START_SECONDS)
        self.ready = True

    def run(self, task: ClipTask, frames: SharedFrames) -> Any:
        """Its answer: a report or an exception."""
        return self._exchange(task, frames.file, CLIP_SECONDS)

    def _exchange(self, message: Any, file: int | None, seconds: float) -> Any:
        try:
            self._channel.socket.settimeout(seconds)
            self._channel.send(message, file)
            return self._channel.receive()[0]
        except TimeoutError as error:
            raise _DeadWorkerError(f"gave no answer for {seconds:g} seconds") from error
        except (EOFError, OSError) as error:
            raise _DeadWorkerError(self._how_it_ended()) from error

    def _how_it_ended(self) -> str:
        try:
            code = self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "closed its connection"
        if code >= 0:
            return f"ended with status {code}"
        hint = " (out of memory?)" if -code == signal.SIGKILL else ""
        return f"was killed by {signal.Signals(-code).name}{hint}"

    def end(self) -> None:
        """Kill it, and leave no zombie."""
        self.process.kill()
        self.process.wait()
        # Wakes a thread that waits for it; the socket itself goes with the last reference.
        try:
            self._channel.socket.shutdown(socket.SHUT_RDWR)
        except OSError:  # it is down already
            return


def _started(file: int) -> "subprocess.Popen[bytes]":
    """A new process that serves a socket.

    Not multiprocessing's spawn: that would import the main program, and with it torch and megatron-core.
    """
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(file), str(os.getpid()), json.dumps(sys.path)],
        pass_fds=[file],
        stdin=subprocess.DEVNULL,
        # One thread a process; and none of them has business on a GPU.
        env={**os.environ, "OMP_NUM_THREADS": "1", "DALI_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )

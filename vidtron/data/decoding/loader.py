"""Decoded clips in a given order, made ahead of time by decoding processes; bad samples replaced as the plan says."""

import contextlib
import math
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vidtron.config.data import ClipSize, DataConfig
from vidtron.data.decoding.decode import ClipDecoder
from vidtron.data.decoding.frames import ClipReport, ClipTask
from vidtron.data.decoding.shared_frames import FramesPool
from vidtron.data.decoding.workers import WorkerPool, WorkersClosedError
from vidtron.data.errors import BadClipError, BadSampleError, ShardError

if TYPE_CHECKING:
    from vidtron.data.planning.buckets import Bucket
    from vidtron.data.planning.plan import Plan, PlannedSample

MOST_ATTEMPTS = 1000
"""Samples tried for one position before the run stops: with so many bad ones in a row the data is not there."""


@dataclass(frozen=True)
class BadSample:
    """A sample that was to stand at a position and could not be read."""

    position: int
    row: int
    key: str
    shard: str
    reason: str


@dataclass(frozen=True)
class Clip:
    """What stands at a position."""

    position: int
    row: int
    """Row of the index: the planned one, or that of a replacement."""
    key: str
    caption: str
    """Empty where `cached` is given: nothing is read from the shard then."""
    size: ClipSize
    bucket: "Bucket"
    frame_numbers: tuple[int, ...]
    frames_TCHW: Tensor | None
    """uint8 RGB in CPU memory, pinned where there is a GPU; None where `cached` is given, or where the sample is bad
    and the loader replaces none."""
    cached: Any | None
    """What the loader's `cached` gave for it."""
    bad: tuple[BadSample, ...]
    """Samples that were tried in vain at this position, in order."""


class ClipLoader(Iterator[Clip]):
    """Iterates the clips of given positions, in their order, while processes decode the next ones.

    At most max(prefetch_samples, num_workers) clips are decoded or being decoded ahead of the consumer, so memory is
    bounded by so many times the largest clip's 3 T H W bytes - plus the clips that the consumer still holds, and in
    each process one encoded clip and the decoder's own frames (with DALI all frames of a clip in full size).
    Frames come through shared memory and are not copied, except into pinned memory where there is a GPU.

    Processes decode what PyAV and DALI's CPU decoder read; what DALI decodes on a GPU stays in threads of this one.

    A sample that is bad (BadSampleError, or in `known_bad`) is replaced by the plan's rule. Other
    errors surface in the consumer, in the place of their clip, with the sample's name.
    """

    def __init__(
        self,
        plan: "Plan",
        decoder: ClipDecoder | DataConfig,
        positions: Iterable[int],
        num_workers: int = 1,
        prefetch_samples: int = 4,
        known_bad: Collection[int] = (),
        cached: "Callable[[PlannedSample, list[int]], Any | None] | None" = None,
        *,
        replaces: bool = True,
    ) -> None:
        """
        Args:
            plan: says what stands at a position.
            decoder: decodes it; a configuration: the decoder it asks for, on this process's GPU or CPU.
            positions: which positions, endless or not.
            num_workers: decoding processes; 0 decodes in the consumer's thread when a clip is asked for.
            prefetch_samples: clips ahead of the consumer, raised to `num_workers` if smaller.
            known_bad: rows that are replaced without being tried; looked at for each clip, so it may grow.
            cached: given a planned sample and its frame numbers, what the clip carries instead of frames, or None
                where it must be decoded. Called from several threads.
            replaces: bad samples are replaced; otherwise the clip of one has neither frames nor `cached`.

        Raises:
            ValueError: a negative number.
        """
        if num_workers < 0 or prefetch_samples < 0:
            raise ValueError(f"{num_workers} workers, {prefetch_samples} clips ahead; accepted: 0 or more")
        self.plan = plan
        self.decoder = ClipDecoder.from_config(decoder) if isinstance(decoder, DataConfig) else decoder
        self.wait_seconds = 0.0
        """Seconds the consumer has waited for clips."""
        self.read_seconds = 0.0
        """Seconds of all processes for reading bytes."""
        self.decode_seconds = 0.0
        """Seconds of all processes for decoding, resizing and cutting."""
        self._known_bad = known_bad
        self._cached = cached
        self._replaces = replaces
        self._positions = iter(positions)
        self._ahead = max(prefetch_samples, num_workers) if num_workers else 0
        self._pending: deque[Future[Clip]] = deque()
        self._lock = threading.Lock()
        self._work = _Work(self.decoder, num_workers, self._ahead) if num_workers else None
        # Also where nobody closes it, and at the end of the program.
        self._finalizer = weakref.finalize(self, _Work.close, self._work) if self._work else None
        self._closed = False
        self._refill()

    def __next__(self) -> Clip:
        if self._closed:
            raise RuntimeError("the loader is closed")
        start = time.perf_counter()
        try:
            if self._work is None:
                return self._load(next(self._positions))
            self._refill()
            if not self._pending:
                raise StopIteration
            return self._pending.popleft().result()
        finally:
            self.wait_seconds += time.perf_counter() - start
            self._refill()

    def close(self) -> None:
        """End the processes and threads; clips being decoded are dropped. May be called again."""
        self._closed = True
        if self._finalizer is not None:
            self._finalizer()
        self._pending.clear()

    def __enter__(self) -> "ClipLoader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _refill(self) -> None:
        while self._work is not None and not self._closed and len(self._pending) < self._ahead:
            position = next(self._positions, None)
            if position is None:
                return
            self._pending.append(self._work.submit(self._load, position))

    def _load(self, position: int) -> Clip:
        """The clip of a position: its planned sample, or the first good one of its replacements."""
        bad: list[BadSample] = []
        tried: set[int] = set()
        for attempt in range(MOST_ATTEMPTS):
            planned = self.plan.replacement(position, attempt) if attempt else self.plan.slot(position)
            if planned.row in tried:
                break
            tried.add(planned.row)
            clip = self._try(planned, bad)
            if clip is not None:
                return clip
            if not self._replaces:
                key, size = bad[-1].key, planned.bucket.size
                return Clip(position, planned.row, key, "", size, planned.bucket, (), None, None, tuple(bad))
        raise ShardError(
            f"none of {len(tried)} samples of bucket {planned.bucket.name} that were tried for position {position} "
            f"can be read; the last one, {bad[-1].key} of {bad[-1].shard}: {bad[-1].reason}"
        )

    def _try(self, planned: "PlannedSample", bad: list[BadSample]) -> Clip | None:
        """The planned sample's clip; None where it is bad, which is then added to `bad`."""
        sample = self.plan.index[planned.row]
        size = planned.bucket.size
        frames, cached, caption = None, None, ""
        numbers: list[int] = []
        try:
            if planned.row in self._known_bad:
                raise BadClipError(str(sample.shard), sample.key, "known to be bad")
            numbers = self.plan.frames_at(planned)
            cached = self._cached(planned, numbers) if self._cached else None
            if cached is None:
                frames, report = self._read(ClipTask(sample, tuple(numbers), size.height, size.width))
                caption = report.caption
        except BadSampleError as error:
            bad.append(BadSample(planned.position, planned.row, sample.key, str(sample.shard), error.reason))
            return None
        except Exception as error:
            error.add_note(f"while loading sample {sample.key} of {sample.shard}, position {planned.position}")
            raise
        return Clip(
            planned.position, planned.row, sample.key, caption, size, planned.bucket, tuple(numbers), frames, cached,
            tuple(bad),
        )  # fmt: skip

    def _read(self, task: ClipTask) -> tuple[Tensor, ClipReport]:
        if self._work is None or self.decoder.in_this_process(task.sample):
            frames, report = self.decoder.read(task)
        else:
            frames, report = self._work.read(task)
            self.decoder.note(task.sample, report)
        with self._lock:
            self.read_seconds += report.read_seconds
            self.decode_seconds += report.decode_seconds
        return frames, report


class _Work:
    """Threads that prepare clips and wait for the decoding processes."""

    def __init__(self, decoder: ClipDecoder, num_workers: int, ahead: int) -> None:
        self._workers = WorkerPool(decoder.reader, num_workers)
        self._memory = FramesPool(keep=ahead)
        self._tasks: queue.SimpleQueue[tuple[Future, Callable, int] | None] = queue.SimpleQueue()
        # Two threads a process: one prepares the next clip while the other one waits.
        count = min(ahead, 2 * num_workers)
        self._threads = [
            threading.Thread(target=_serve, args=(self._tasks,), name=f"clip-{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, load: Callable[[int], Clip], position: int) -> "Future[Clip]":
        """`load(position)` in a thread."""
        future: Future[Clip] = Future()
        self._tasks.put((future, load, position))
        return future

    def read(self, task: ClipTask) -> tuple[Tensor, ClipReport]:
        """(frames, report) of a task, decoded in a process."""
        piece = self._memory.take(math.prod(task.shape))
        try:
            report = self._workers.run(task, piece)
        except BaseException:
            self._memory.give_back(piece)
            raise
        frames = torch.from_numpy(self._memory.lend(piece, task.shape))
        return (frames.pin_memory() if torch.cuda.is_available() else frames), report

    def close(self) -> None:
        """End the processes, then the threads, which wait for nothing else."""
        self._workers.close()
        with contextlib.suppress(queue.Empty):
            while True:
                self._tasks.get_nowait()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            if thread is not threading.current_thread():  # garbage collection may close anywhere
                thread.join()
        self._memory.close()


def _serve(tasks: "queue.SimpleQueue[tuple[Future, Callable, int] | None]") -> None:
    while (task := tasks.get()) is not None:
        future, load, position = task
        del task
        try:
            future.set_result(load(position))
        except WorkersClosedError as error:
            future.set_exception(error)
            return
        except BaseException as error:
            future.set_exception(error)
        del future, load  # or this thread would keep the loader alive

"""Decoded clips in a given order, made ahead of time by background threads.

Threads, because decoders release the interpreter while they work.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

from torch import Tensor

from vidtron.config.data import DataConfig
from vidtron.data.decode import BadClipError, ClipDecoder
from vidtron.data.plan import Plan


@dataclass(frozen=True)
class Clip:
    """One decoded sample."""

    position: int
    key: str
    caption: str
    frames_TCHW: Tensor
    """uint8 RGB in CPU memory."""


class ClipLoader(Iterator[Clip]):
    """Iterates the clips of given positions, in their order, while threads decode the next ones.

    At most `prefetch_samples` clips are decoded or being decoded ahead of the consumer. An exception of a thread
    surfaces in the consumer, in the place of its clip, with the sample's name; iteration can go on after it.
    """

    def __init__(
        self,
        plan: Plan,
        decoder: ClipDecoder | DataConfig,
        positions: Iterable[int],
        num_workers: int = 1,
        prefetch_samples: int = 4,
    ) -> None:
        """
        Args:
            plan: says what stands at a position.
            decoder: decodes it; a configuration: the decoder it asks for, on this process's GPU or CPU.
            positions: which positions, endless or not.
            num_workers: threads; 0 decodes in the consumer's thread when a clip is asked for.
            prefetch_samples: clips ahead of the consumer, raised to `num_workers` if smaller.

        Raises:
            ValueError: a negative number.
        """
        if num_workers < 0 or prefetch_samples < 0:
            raise ValueError(f"{num_workers} workers, {prefetch_samples} clips ahead; accepted: 0 or more")
        self.plan = plan
        self.decoder = ClipDecoder.from_config(decoder) if isinstance(decoder, DataConfig) else decoder
        self.wait_seconds = 0.0
        """Seconds the consumer has waited for clips."""
        self._positions = iter(positions)
        self._ahead = max(prefetch_samples, num_workers) if num_workers else 0
        self._pool = ThreadPoolExecutor(num_workers, thread_name_prefix="clip") if num_workers else None
        self._pending: deque[Future[Clip]] = deque()
        self._closed = False
        self._refill()

    def __next__(self) -> Clip:
        if self._closed:
            raise RuntimeError("the loader is closed")
        start = time.perf_counter()
        try:
            if self._pool is None:
                return self._load(next(self._positions))
            self._refill()
            if not self._pending:
                raise StopIteration
            return self._pending.popleft().result()
        finally:
            self.wait_seconds += time.perf_counter() - start
            self._refill()

    def close(self) -> None:
        """Stop the threads; clips being decoded are finished and dropped. May be called again."""
        self._closed = True
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._pending.clear()

    def __enter__(self) -> "ClipLoader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _refill(self) -> None:
        while self._pool is not None and not self._closed and len(self._pending) < self._ahead:
            position = next(self._positions, None)
            if position is None:
                return
            self._pending.append(self._pool.submit(self._load, position))

    def _load(self, position: int) -> Clip:
        sample = self.plan.sample(position)
        try:
            frames_TCHW = self.decoder.decode(sample, self.plan.frames_at(position))
            return Clip(position, sample.key, sample.caption(), frames_TCHW)
        except BadClipError:
            raise
        except Exception as error:
            error.add_note(f"while loading sample {sample.key} of {sample.shard}, position {position}")
            raise

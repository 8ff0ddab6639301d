"""From rows in windows to global batches: which samples stand at which position.

Inside a window all samples find their buckets and are shuffled. A bucket's samples, window after window, are its
stream; batch j is the j-th run of batch-size samples of that stream, and due in the window where its last sample lies.
The batches due in one window are shuffled among themselves. What is left in a stream at the end of an epoch is left
over.

Windows are counted as far as anyone has asked, so that a run starts at once; positions of later epochs need the
earlier ones counted, unless every epoch is equally long.
"""

import bisect
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from vidtron.data.planning.buckets_assign import Dropped
from vidtron.data.planning.buckets_draws import U64, hashed, key_of
from vidtron.data.planning.order import Order, Recent

Ints = NDArray[np.int64]
Assign = Callable[[Ints, Ints], Ints]
"""(rows, visits) -> numbers of buckets or values of `Dropped`."""

REASONS = len(Dropped)
_EMPTY_EPOCHS = 16
"""So many epochs without a batch, one after the other, and no other is looked for."""


class EmptyPlanError(ValueError):
    """No epoch gives a whole batch."""


class WindowSamples:
    """Samples of one window in shuffled order, with their buckets."""

    def __init__(self, rows: Ints, buckets: Ints, num_buckets: int, order_key: U64 | None) -> None:
        kept = buckets >= 0
        self.counts = np.bincount(buckets[kept], minlength=num_buckets)
        """Samples of each bucket [buckets]."""
        self.dropped = np.bincount(-1 - buckets[~kept], minlength=REASONS)
        """Samples in no bucket, by reason: entry i is reason -1 - i."""
        self._rows, self._buckets = rows, buckets
        self._order_key = order_key

    def of(self, bucket: int) -> Ints:
        """Rows of a bucket, in order."""
        rows, ends = self._grouped
        return rows[ends[bucket] - self.counts[bucket] : ends[bucket]]

    @cached_property
    def _grouped(self) -> tuple[Ints, Ints]:
        """(rows, bucket after bucket; ends of the buckets)."""
        kept = np.flatnonzero(self._buckets >= 0)
        if self._order_key is not None:
            kept = kept[np.argsort(self._order_key[kept], kind="stable")]
        kept = kept[np.argsort(self._buckets[kept], kind="stable")]
        return self._rows[kept], np.cumsum(self.counts)


@dataclass(frozen=True)
class DueBatches:
    """Batches of one window, one after the other."""

    rows: Ints
    """Rows of all samples of these batches."""
    ends: Ints
    """Number of the sample behind each batch."""
    buckets: Ints
    """Bucket of each batch."""


@dataclass(frozen=True)
class Place:
    """Where a position lies."""

    epoch: int
    window: int
    offset: int
    """Samples of the window's batches before it."""


class Ledger:
    """Counts of an epoch's windows, as far as they were asked for."""

    def __init__(self, schedule: "Schedule", epoch: int) -> None:
        self._schedule, self._epoch = schedule, epoch
        self.before: list[Ints] = [np.zeros(len(schedule.batch_sizes), np.int64)]
        """Samples of each bucket before a window."""
        self.starts = [0]
        """Samples of batches before a window."""
        self.dropped = np.zeros(REASONS, np.int64)
        """Samples in no bucket so far."""
        if schedule.keeps_all:
            ends = schedule.order.window_ends()
            self.before += list(ends[:, None])
            self.starts += ends.tolist()

    def covers(self, offset: int) -> bool:
        """Whether the epoch has a sample at this offset; counts as far as needed."""
        while self.starts[-1] <= offset and len(self.starts) <= self._schedule.order.windows:
            samples = self._schedule.samples(self._epoch, len(self.starts) - 1)
            self.before.append(self.before[-1] + samples.counts)
            self.dropped += samples.dropped
            sizes = self._schedule.batch_sizes
            self.starts.append(int((self.before[-1] // sizes * sizes).sum()))
        return self.starts[-1] > offset

    def complete(self) -> int:
        """Samples of all batches of the epoch; counts to its end."""
        while len(self.starts) <= self._schedule.order.windows:
            self.covers(self.starts[-1])
        return self.starts[-1]

    def window_of(self, offset: int) -> int:
        """Window in which the batch at an offset is due; the offset is covered."""
        return bisect.bisect_right(self.starts, offset) - 1


class Schedule:
    """The batches of all epochs. Thread-safe."""

    def __init__(
        self,
        order: Order,
        assign: Assign,
        batch_sizes: Ints,
        *,
        keeps_all: bool,
        fixed: bool,
        keep_order: bool,
    ) -> None:
        """
        Args:
            order: rows of windows.
            assign: finds buckets.
            batch_sizes: samples of each bucket's batches [buckets].
            keeps_all: there is one bucket, of batches of one, and every sample is in it.
            fixed: a row always finds the same bucket.
            keep_order: samples stay in the order of rows, for evaluation.
        """
        self.order = order
        self.batch_sizes = batch_sizes
        self.keeps_all = keeps_all
        self._assign = assign
        self._equal_epochs = keeps_all or (fixed and order.repeats())
        self._keep_order = keep_order
        self._sample_key, self._batch_key = (key_of(name, order.seed) for name in ("sample order", "batch order"))
        self._samples: Recent[tuple[int, int], WindowSamples] = Recent(8)
        self._due: Recent[tuple[int, int], DueBatches] = Recent(8)
        self._waiting: Recent[tuple[int, int], dict[int, Ints]] = Recent(8)
        self._ledgers: Recent[int, Ledger] = Recent(3)
        self._starts = [0]
        self._length: int | None = None
        self._lock = threading.RLock()

    def locate(self, position: int) -> Place:
        """Where a position lies.

        Raises:
            ValueError: it is negative.
            EmptyPlanError: there are no batches.
        """
        if position < 0:
            raise ValueError(f"position {position}; accepted: 0 or more")
        with self._lock:
            epoch, start = self._epoch_of(position)
            ledger = self.ledger(epoch)
            ledger.covers(position - start)  # counts so far
            window = ledger.window_of(position - start)
            return Place(epoch, window, position - start - ledger.starts[window])

    def ledger(self, epoch: int) -> Ledger:
        """Counts of an epoch."""
        with self._lock:
            return self._ledgers.get(epoch, lambda: Ledger(self, epoch))

    def complete_ledger(self, epoch: int) -> Ledger:
        """Counts of a whole epoch."""
        with self._lock:
            ledger = self.ledger(epoch)
            ledger.complete()
            return ledger

    def samples(self, epoch: int, window: int) -> WindowSamples:
        """Samples of a window."""
        with self._lock:
            return self._samples.get((epoch, window), lambda: self._make_samples(epoch, window))

    def due(self, epoch: int, window: int) -> DueBatches:
        """Batches that are due in a window."""
        with self._lock:
            return self._due.get((epoch, window), lambda: self._make_due(epoch, window))

    def _epoch_of(self, position: int) -> tuple[int, int]:
        """(epoch, its first position)."""
        empty = 0
        while True:
            if self._length is not None:
                epoch = position // self._length
                return epoch, epoch * self._length
            epoch = bisect.bisect_right(self._starts, position) - 1
            start = self._starts[epoch]
            known = epoch + 1 < len(self._starts)
            if known or self.ledger(epoch).covers(position - start):
                return epoch, start
            length = self.ledger(epoch).complete()
            empty = 0 if length else empty + 1
            if empty and (self._equal_epochs or empty == _EMPTY_EPOCHS):
                raise EmptyPlanError("no epoch gives a whole batch")
            if self._equal_epochs:
                self._length = length
            self._starts.append(start + length)

    def _make_samples(self, epoch: int, window: int) -> WindowSamples:
        rows, visits = self.order.window(epoch, window)
        order_key = None if self._keep_order else hashed(self._sample_key, visits, rows)
        return WindowSamples(rows, self._assign(rows, visits), len(self.batch_sizes), order_key)

    def _make_due(self, epoch: int, window: int) -> DueBatches:
        ledger = self.ledger(epoch)
        while len(ledger.starts) <= window + 1:
            ledger.covers(ledger.starts[-1])
        samples, waiting = self.samples(epoch, window), self._waiting_before(epoch, window)
        first, last = (ledger.before[window + i] // self.batch_sizes for i in (0, 1))
        due = np.flatnonzero(last > first)
        if not len(due):
            nothing = np.zeros(0, np.int64)
            return DueBatches(nothing, nothing, nothing)
        batches = (last - first)[due]
        streams = [
            _joined(waiting.get(bucket), samples.of(bucket))[
                : (last[bucket] - first[bucket]) * self.batch_sizes[bucket]
            ]
            for bucket in due.tolist()
        ]
        buckets = np.repeat(due, batches)
        sizes = self.batch_sizes[buckets]
        starts = np.cumsum(sizes) - sizes
        if not self.keeps_all and not self._keep_order:
            numbers = np.arange(len(buckets)) - np.repeat(np.cumsum(batches) - batches, batches) + first[buckets]
            order = np.argsort(hashed(self._batch_key, epoch, buckets, numbers), kind="stable")
            buckets, sizes, starts = buckets[order], sizes[order], starts[order]
        ends = np.cumsum(sizes)
        places = np.arange(ends[-1]) + np.repeat(starts - (ends - sizes), sizes)
        return DueBatches(np.concatenate(streams)[places], ends, buckets)

    def _waiting_before(self, epoch: int, window: int) -> dict[int, Ints]:
        """Rows of each bucket that wait at the start of a window for their batch to be full."""
        if window == 0 or (self.batch_sizes == 1).all():
            return {}
        return self._waiting.get((epoch, window), lambda: self._make_waiting(epoch, window))

    def _make_waiting(self, epoch: int, window: int) -> dict[int, Ints]:
        """Goes back from the window as far as the waiting samples lie, or to a window where they are known."""
        before = self.ledger(epoch).before
        missing = before[window] % self.batch_sizes
        pieces: dict[int, list[Ints]] = {int(bucket): [] for bucket in np.flatnonzero(missing)}
        while missing.any():
            window -= 1
            here = np.minimum(missing, before[window + 1] - before[window])
            for bucket in np.flatnonzero(here).tolist():
                pieces[bucket].append(self.samples(epoch, window).of(bucket)[-here[bucket] :])
            missing = missing - here
            known = self._waiting.peek((epoch, window)) if window else None
            if known is not None:
                for bucket in np.flatnonzero(missing).tolist():
                    pieces[bucket].append(known[bucket][-missing[bucket] :])
                break
        return {bucket: np.concatenate(found[::-1]) for bucket, found in pieces.items()}


def _joined(waiting: Ints | None, rows: Ints) -> Ints:
    return rows if waiting is None else np.concatenate([waiting, rows])

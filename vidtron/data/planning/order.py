"""The order in which the rows of an index come, before they are dealt to buckets.

An epoch is a row of windows of some ten thousand samples. A source, one or several folders, is gone through in slices
of neighbouring rows, the slices in random order: what a window takes lies in few long pieces of shards. Nothing of the
size of the index is held, only the order of the slices.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Key = TypeVar("Key")
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """The values that were used last, made where they are missing. Not thread-safe."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._values: OrderedDict[Key, Value] = OrderedDict()

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value of a key."""
        if key not in self._values:
            self._values[key] = make()
            if len(self._values) > self.size:
                self._values.popitem(last=False)
        self._values.move_to_end(key)
        return self._values[key]

    def peek(self, key: Key) -> Value | None:
        """The value of a key, None where it is missing."""
        return self._values.get(key)


@dataclass(frozen=True)
class Source:
    """Rows that are gone through together."""

    start: int
    """First row."""
    rows: int
    per_epoch: int
    """Samples it gives to an epoch; visits go on where the last epoch has stopped."""


class SliceOrder:
    """One visit of a source: its slices of neighbouring rows in random order."""

    def __init__(self, rows: int, slice_rows: int, key: object | None) -> None:
        """
        Args:
            rows: of the source.
            slice_rows: rows of a slice; the last one may have fewer.
            key: names the order; None: as they lie.
        """
        self.rows = rows
        self.slice_rows = slice_rows
        slices = -(-rows // slice_rows)
        if key is None:
            self.order = np.arange(slices)
        else:
            digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
            # Raw bits, because numpy keeps those the same over its versions, its permutations not.
            bits = np.random.Philox(key=int.from_bytes(digest, "little")).random_raw(slices)
            self.order = np.argsort(bits, kind="stable")
        self._short_place = int(np.flatnonzero(self.order == slices - 1)[0]) * slice_rows
        self._missing = slices * slice_rows - rows

    def rows_at(self, start: int, stop: int) -> Ints:
        """Rows of the source at the places [start, stop) of the visit."""
        places = np.arange(start, stop)
        # Behind the short slice everything stands as if that had its full length.
        short_end = self._short_place + self.slice_rows - self._missing
        places[places >= short_end] += self._missing
        return self.order[places // self.slice_rows] * self.slice_rows + places % self.slice_rows


class Order:
    """Rows of each window of each epoch."""

    def __init__(
        self, sources: Sequence[Source], seed: int, slice_rows: int, window_samples: int, sequential: bool
    ) -> None:
        """
        Args:
            sources: what an epoch takes from where.
            seed: of the order of slices.
            slice_rows: rows of a slice.
            window_samples: samples of a window, about.
            sequential: rows as they lie.
        """
        self.sources = tuple(sources)
        self.seed = seed
        self.slice_rows = slice_rows
        self.sequential = sequential
        self.samples = sum(source.per_epoch for source in sources)
        """Samples of an epoch, before any is dropped."""
        self.windows = max(1, round(self.samples / window_samples))
        self._visits: Recent[tuple[int, int], SliceOrder] = Recent(2 * len(self.sources) + 2)

    def repeats(self) -> bool:
        """Whether each epoch has the same samples."""
        return all(source.per_epoch % source.rows == 0 for source in self.sources)

    def window_ends(self) -> Ints:
        """Samples of an epoch up to the end of each window [windows]."""
        ends = np.arange(1, self.windows + 1)
        return sum((source.per_epoch * ends // self.windows for source in self.sources), np.zeros_like(ends))

    def window(self, epoch: int, window: int) -> tuple[Ints, Ints]:
        """(rows of the index, visits of their sources) [samples], source after source, unshuffled."""
        rows: list[Ints] = []
        visits: list[Ints] = []
        for number, source in enumerate(self.sources):
            first, last = (source.per_epoch * (window + i) // self.windows for i in (0, 1))
            place, end = epoch * source.per_epoch + first, epoch * source.per_epoch + last
            while place < end:
                visit, start = divmod(place, source.rows)
                stop = min(source.rows, start + end - place)
                rows.append(source.start + self._visit(number, visit).rows_at(start, stop))
                visits.append(np.full(stop - start, visit))
                place += stop - start
        if not rows:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        return np.concatenate(rows), np.concatenate(visits)

    def _visit(self, number: int, visit: int) -> SliceOrder:
        source = self.sources[number]
        key = None if self.sequential else ("order of slices", self.seed, number, visit)
        return self._visits.get((number, visit), lambda: SliceOrder(source.rows, self.slice_rows, key))


def sources_of(folder_sizes: Sequence[int], weights: Sequence[float] | None) -> list[Source]:
    """One source of all folders, or one for each where they are weighted.

    Args:
        folder_sizes: rows of each folder.
        weights: share of each folder in an epoch; they add up to 1, and an epoch has as many samples as there are
            rows.

    Raises:
        ValueError: there are not as many weights as folders.
    """
    total = sum(folder_sizes)
    if weights is None:
        return [Source(0, total, total)]
    if len(weights) != len(folder_sizes):
        raise ValueError(f"{len(weights)} weights for {len(folder_sizes)} folders; accepted: one for each")
    starts = np.cumsum([0, *folder_sizes[:-1]])
    return [
        Source(int(start), rows, max(1, round(weight * total)))
        for start, rows, weight in zip(starts, folder_sizes, weights, strict=True)
    ]

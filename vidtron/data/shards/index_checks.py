"""Whether the rows of an index can be believed: everything that planning and reading rely on, column by column."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vidtron.data.limits import LARGEST_SIDE, LEAST_FPS, MOST_FPS, MOST_FRAMES, MOST_SECONDS
from vidtron.data.shards.arrow_numpy import as_numpy, lengths, valid
from vidtron.data.shards.index_schema import COLUMNS, MEMBERS, nullable
from vidtron.data.shards.members import BLOCK
from vidtron.data.shards.sample import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS

_INT32 = np.iinfo(np.int32).max
_RANGES: dict[str, tuple[float, float]] = {
    "width": (1, LARGEST_SIDE),
    "height": (1, LARGEST_SIDE),
    "frames": (1, MOST_FRAMES),
    "fps": (LEAST_FPS, MOST_FPS),
    "duration": (0, MOST_SECONDS),
    "caption_characters": (0, _INT32),
    "caption_tokens": (0, _INT32),
}
_ONE_FRAME = 1.5  # a duration may or may not count the last frame's own time, and time stamps are rounded
_PART = 0.01  # of the frames

Values = Callable[[str], NDArray]
"""A column by name: numbers, bools or codes, nulls as -1."""


class BadRowsError(ValueError):
    """Rows that cannot be believed; the message says which and why."""


@dataclass(frozen=True)
class RowChecks:
    """Checks record batches of one index. Safe to use from several threads."""

    shard_sizes: NDArray[np.int64]
    """Bytes of each shard."""
    media: Sequence[str]
    """Names of the column media."""
    scores: Sequence[str]

    def check(self, batch: pa.RecordBatch, values: Values, first: int) -> tuple[int, int]:
        """(first, last) number of a shard in a record batch with rows; all that can be found out from its columns.

        Args:
            batch: the rows.
            values: gives the columns of the batch.
            first: number of its first row in the index.

        Raises:
            BadRowsError: the first mistake.
        """
        # Offsets of text and lists, codes of dictionaries, and UTF-8: nothing may be looked at before.
        try:
            batch.validate(full=True)
        except pa.ArrowException as error:
            raise BadRowsError(f"rows {first} to {first + batch.num_rows - 1}: {_line(error)}") from error
        for place, problem in self._problems(batch, values):
            key = batch.column("key")[place].as_py()
            raise BadRowsError(f"row {first + place} ({key!r}): {problem}")
        shard = values("shard")
        return int(shard[0]), int(shard[-1])

    def _problems(self, batch: pa.RecordBatch, values: Values) -> Iterator[tuple[int, str]]:
        """(place, what is wrong) of the first bad row of each kind. Later checks rely on earlier ones."""
        for name in COLUMNS:
            column = batch.column(name)
            if column.null_count and not nullable(name):
                yield int(valid(column).argmin()), f"{name} is missing"
        yield from self._text(batch, values)
        yield from self._places(batch, values)
        for name, (low, high) in _RANGES.items():
            numbers = values(name)
            if not nullable(name):
                yield from _outside(name, numbers, low, high)
            elif batch.column(name).null_count < len(numbers):
                yield from _outside(name, numbers[valid(batch.column(name))], low, high, valid(batch.column(name)))
        frames = values("frames")
        off = values("fps") * values("duration")  # in place from here on: the arrays are large
        off -= frames
        off += 0.5
        np.abs(off, out=off)
        off -= _PART * frames
        bad = off > _ONE_FRAME
        if bad.any():
            place = int(bad.argmax())
            told = f"{values('duration')[place]:g} s of {values('fps')[place]:g} frames a second"
            yield place, f"{frames[place]} frames are not {told}"
        yield from self._times(batch, frames)
        for name in self.scores:
            infinite = np.isinf(values(name))
            if infinite.any():
                yield int(infinite.argmax()), f"{name} is infinite"

    def _text(self, batch: pa.RecordBatch, values: Values) -> Iterator[tuple[int, str]]:
        sizes = lengths(batch.column("key"))
        if not sizes.all():
            yield int(sizes.argmin()), "key is empty"
        codes = values("media")
        images = np.array([name in IMAGE_EXTENSIONS for name in self.media])
        known = images | np.array([name in VIDEO_EXTENSIONS for name in self.media])
        if not known[codes].all():
            place = int(known[codes].argmin())
            yield place, f"media {self.media[codes[place]]!r}; accepted: a video or an image"
        alike = images[codes] == values("image")
        if not alike.all():
            place = int(alike.argmin())
            yield place, f"image is {bool(values('image')[place])} for a .{self.media[codes[place]]}"

    def _places(self, batch: pa.RecordBatch, values: Values) -> Iterator[tuple[int, str]]:
        """Shards, and where in them the members lie."""
        shard = values("shard")
        yield from _outside("shard", shard, 0, len(self.shard_sizes) - 1)
        falling = shard[1:] < shard[:-1]
        if falling.any():
            yield int(falling.argmax()) + 1, "shard is not the one before or a following one"
        room = self.shard_sizes[shard]
        for name in MEMBERS:
            offset, size = values(f"{name}_offset"), values(f"{name}_size")
            ends = room
            there = None
            if nullable(f"{name}_offset"):
                there = valid(batch.column(f"{name}_offset"))
                differing = there != valid(batch.column(f"{name}_size"))
                if differing.any():
                    yield int(differing.argmax()), f"{name} has only one of offset and size"
                if not there.all():
                    offset, size, ends = offset[there], size[there], room[there]
                else:
                    there = None
            if not len(offset):
                continue
            yield from _outside(f"{name}_offset", offset, BLOCK, np.iinfo(np.int64).max, there)
            yield from _outside(f"{name}_size", size, int(name == "media"), np.iinfo(np.int64).max, there)
            beyond = size > ends - offset
            if beyond.any():
                place = int(beyond.argmax())
                told = f"{name} of {size[place]} bytes from {offset[place]} on, in a shard of {ends[place]}"
                yield _row(place, there), told

    def _times(self, batch: pa.RecordBatch, frames: NDArray) -> Iterator[tuple[int, str]]:
        column = batch.column("times")
        if column.null_count == len(column):
            return
        there = valid(column)
        sizes = lengths(column)[there]
        wrong = sizes != frames[there]
        if wrong.any():
            place = int(wrong.argmax())
            yield _row(place, there), f"{sizes[place]} times of {frames[there][place]} frames"
        flat = column.flatten()
        if flat.null_count:
            yield _row(0, there), "times are missing"
        times = as_numpy(flat)
        assert times is not None
        ends = np.cumsum(sizes)
        good = (times >= 0) & (times <= MOST_SECONDS)
        rising = np.diff(times, prepend=0.0) >= 0
        rising[ends[:-1]] = True  # where another clip begins
        if not (good & rising).all():
            place = int(np.searchsorted(ends, (good & rising).argmin(), side="right"))
            yield _row(place, there), f"times that do not rise from 0 to at most {MOST_SECONDS:g}"


def _outside(
    name: str, numbers: NDArray, low: float, high: float, there: NDArray[np.bool_] | None = None
) -> Iterator[tuple[int, str]]:
    """The first number that is not within bounds; `there`: where the numbers stand among all rows."""
    if numbers.min() >= low and numbers.max() <= high:  # neither with a NaN
        return
    place = int(((numbers >= low) & (numbers <= high)).argmin())
    accepted = f"at least {low:g}" if high >= _INT32 else f"{low:g} to {high:g}"
    yield _row(place, there), f"{name} {numbers[place]}; accepted: {accepted}"


def _row(place: int, there: NDArray[np.bool_] | None) -> int:
    return place if there is None else int(np.flatnonzero(there)[place])


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]

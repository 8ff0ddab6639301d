"""Figures and histograms of an index, from its columns: no object is made for a row."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidtron.data.shards.index import ShardIndex

CHUNK = 1 << 20
"""Rows that are looked at together."""
_PILOT = 200_000
"""Rows that a histogram's range is taken from."""
_TAIL = 0.005
"""Share of the rows that may lie outside of the range at each end; they are counted as below and above it."""
_MOST_ROOM = 1.5
"""The range holds all rows where that makes it no more than so much wider."""
_BARS = 40


@dataclass(frozen=True)
class Column:
    """Numbers of all rows, in chunks; NaN where a row has none."""

    name: str
    """What filters and sorting call it."""
    label: str
    unit: str
    chunks: Callable[[], Iterator[NDArray]]
    pilot: NDArray
    """Values of rows spread evenly over all."""
    whole: bool
    """Whether they are whole numbers."""


@dataclass(frozen=True)
class Histogram:
    """Counts of a column's values."""

    name: str
    label: str
    unit: str
    edges: tuple[float, ...]
    """Edges of the bars, one more than there are bars. The first is the minimum where nothing lies below, the last the
    maximum where nothing lies above. A bar holds its left edge and not its right one, but the maximum is held by the
    last bar; of whole numbers that may be its only value."""
    counts: tuple[int, ...]
    below: int
    """Values left of the first edge."""
    above: int
    """Values from the last edge on; 0 where that is the maximum."""
    missing: int
    """Rows without a value."""
    minimum: float
    maximum: float
    mean: float
    median: float
    """Median of at most 200,000 rows spread evenly over all."""
    whole: bool
    """Whether the values are whole numbers."""


@dataclass(frozen=True)
class Folder:
    """One folder of shards."""

    name: str
    samples: int
    shards: int
    hours: float
    media_bytes: int


@dataclass(frozen=True)
class IndexStatistics:
    """What an index holds."""

    folders: tuple[Folder, ...]
    images: int
    codecs: dict[str, int]
    """Samples of each codec, most first."""
    resolutions: dict[tuple[int, int], int]
    """Samples of each (width, height), most first."""
    histograms: tuple[Histogram, ...]


def index_statistics(index: ShardIndex) -> IndexStatistics:
    """Everything that the columns tell."""
    return IndexStatistics(
        folders=tuple(_folders(index)),
        images=sum(int(np.count_nonzero(chunk)) for chunk in _chunks(index, "image")),
        codecs=dict(sorted(index.codecs().items(), key=lambda item: -item[1])),
        resolutions=_resolutions(index),
        histograms=tuple(found for column in index_columns(index) if (found := histogram(column)) is not None),
    )


def index_columns(index: ShardIndex) -> list[Column]:
    """The columns of an index that have histograms and can be filtered by."""
    columns = [
        _index_column(index, "width", "width", "px"),
        _index_column(index, "height", "height", "px"),
        Column(
            "aspect_ratio",
            "height / width",
            "",
            lambda: (h / w for h, w in zip(_chunks(index, "height"), _chunks(index, "width"), strict=True)),
            _pilot(index, "height") / _pilot(index, "width"),
            whole=False,
        ),
        _index_column(index, "frames", "frames", ""),
        _video_column(index, "fps", "frames a second", ""),
        _video_column(index, "duration", "duration", "s"),
        _index_column(index, "caption_characters", "caption length", "characters"),
    ]
    return columns + [_index_column(index, name, label_of(name), "") for name in index.scores]


def values_of(index: ShardIndex, rows: NDArray[np.int64]) -> dict[str, Sequence[float | None]]:
    """Numbers of some rows, by the names of `index_columns`."""
    names = "width height frames fps duration caption_characters".split()
    values = {name: index.take(name, rows) for name in (*names, *index.scores)}
    values["aspect_ratio"] = values["height"] / values["width"]
    image = index.take("image", rows)
    values |= {name: _of_videos(values[name], image) for name in ("fps", "duration")}
    return {name: column.tolist() for name, column in values.items()}


def label_of(name: str) -> str:
    """A column's name as shown: score_aesthetic is "aesthetic"."""
    return name.removeprefix("score_").replace("_", " ")


def pilot_rows(samples: int) -> NDArray[np.int64]:
    """At most 200,000 rows, spread evenly."""
    count = min(samples, _PILOT)
    return np.arange(count, dtype=np.int64) * samples // count


def histogram(column: Column) -> Histogram | None:
    """Counts of a column's values in about 40 bars of a round width, where values lie far out over all but the
    outermost half per cent at each end; None where no row has a value."""
    finite = column.pilot[np.isfinite(column.pilot)]
    if not len(finite):  # rare values: look for them everywhere
        finite = np.concatenate([chunk[np.isfinite(chunk)] for chunk in column.chunks()] or [finite])
    if not len(finite):
        return None
    edges = _edges(*_range(finite), column.whole)
    counts = np.zeros(len(edges) + 1, np.int64)
    rows = values = 0
    minimum, maximum, total = math.inf, -math.inf, 0.0
    for chunk in column.chunks():
        rows += len(chunk)
        chunk = chunk[np.isfinite(chunk)]
        if len(chunk):
            counts += np.bincount(np.searchsorted(edges, chunk, side="right"), minlength=len(counts))
            minimum, maximum = min(minimum, float(chunk.min())), max(maximum, float(chunk.max()))
            total += float(chunk.sum(dtype=np.float64))
            values += len(chunk)
    below, bars, above = int(counts[0]), counts[1:-1].tolist(), int(counts[-1])
    return Histogram(
        name=column.name,
        label=column.label,
        unit=column.unit,
        **_closed(edges.tolist(), bars, None if below else minimum, None if above else maximum, column.whole),
        below=below,
        above=above,
        missing=rows - values,
        minimum=minimum,
        maximum=maximum,
        mean=total / values,
        median=float(np.median(finite)),
        whole=column.whole,
    )


def _range(values: NDArray) -> tuple[float, float]:
    """What bars are drawn for: all values, unless a few would take most of the room."""
    low, high = np.quantile(values, [_TAIL, 1 - _TAIL], method="nearest").tolist()
    least, largest = float(values.min()), float(values.max())
    return (least, largest) if largest - least <= _MOST_ROOM * (high - low) else (low, high)


def _edges(low: float, high: float, whole: bool) -> NDArray[np.float64]:
    """Edges at multiples of 1, 2 or 5 times a power of ten, whole numbers for whole values."""
    step = _round_step((high - low) / _BARS) if high > low else max(abs(low) * 1e-3, 1e-6)
    if whole:
        step = max(1.0, step)
    if high == low:
        return np.array([low, low + step])
    first, last = math.floor(low / step), math.floor(high / step) + 1
    # Rounded to the step's own digits: 3 * 0.1 is not 0.3.
    digits = max(0, 2 - math.floor(math.log10(step)))
    return np.array([round(i * step, digits) for i in range(first, last + 1)])


def _closed(
    edges: list[float], counts: list[int], minimum: float | None, maximum: float | None, whole: bool
) -> dict[str, Any]:
    """Edges and counts of bars that begin at the minimum and end at the maximum; None: values lie beyond that end."""
    if minimum is not None:
        edges[0] = minimum
    if maximum is not None:
        if len(counts) > 1 and maximum == edges[-2] and not (whole and edges[-1] - edges[-2] == 1):
            counts[-2:] = [sum(counts[-2:])]
            del edges[-1]
        edges[-1] = maximum
    return {"edges": tuple(edges), "counts": tuple(counts)}


def _round_step(width: float) -> float:
    power = 10.0 ** math.floor(math.log10(width))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= width * (1 - 1e-9))


def _index_column(index: ShardIndex, name: str, label: str, unit: str) -> Column:
    pilot = _pilot(index, name)
    whole = bool(np.issubdtype(pilot.dtype, np.integer))
    return Column(name, label, unit, lambda: _chunks(index, name), pilot, whole)


def _video_column(index: ShardIndex, name: str, label: str, unit: str) -> Column:
    """A column that says nothing about pictures."""

    def chunks() -> Iterator[NDArray]:
        return (_of_videos(*pair) for pair in zip(_chunks(index, name), _chunks(index, "image"), strict=True))

    return Column(name, label, unit, chunks, _of_videos(_pilot(index, name), _pilot(index, "image")), whole=False)


def _of_videos(values: NDArray, image: NDArray) -> NDArray:
    return np.where(image, np.nan, values)


def _pilot(index: ShardIndex, name: str) -> NDArray:
    return index.take(name, pilot_rows(len(index)))


def _chunks(index: ShardIndex, name: str, start: int = 0, stop: int | None = None) -> Iterator[NDArray]:
    stop = len(index) if stop is None else stop
    for first in range(start, stop, CHUNK):
        yield index.column(name, first, min(first + CHUNK, stop))


def _folders(index: ShardIndex) -> Iterator[Folder]:
    start = 0
    for folder, samples in zip(index.folders, index.folder_sizes, strict=True):
        stop = start + samples
        shards = {number for chunk in _chunks(index, "shard", start, stop) for number in np.unique(chunk).tolist()}
        seconds = sum(float(chunk.sum(dtype=np.float64)) for chunk in _chunks(index, "duration", start, stop))
        size = sum(int(chunk.sum(dtype=np.int64)) for chunk in _chunks(index, "media_size", start, stop))
        yield Folder(str(folder), samples, len(shards), seconds / 3600, size)
        start = stop


def _resolutions(index: ShardIndex) -> dict[tuple[int, int], int]:
    sizes, counts = [], []
    for width, height in zip(_chunks(index, "width"), _chunks(index, "height"), strict=True):
        size, count = np.unique(width.astype(np.int64) << 32 | height.astype(np.int64), return_counts=True)
        sizes.append(size)
        counts.append(count)
    distinct, places = np.unique(np.concatenate(sizes), return_inverse=True)
    totals = np.bincount(places, weights=np.concatenate(counts)).astype(np.int64)
    order = np.argsort(-totals, kind="stable")
    pairs = zip(distinct[order].tolist(), totals[order].tolist(), strict=True)
    return {(size >> 32, size & 0xFFFFFFFF): total for size, total in pairs}

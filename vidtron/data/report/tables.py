"""Number columns of a curation table, for histograms and for the sampled clips."""

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vidtron.data.building.pieces import clean_key
from vidtron.data.report.statistics import Column, label_of, pilot_rows

_JOINED = ("key", "path")
"""Columns that may say which clip a row is of; the first one there is counts."""
_IN_THE_INDEX = frozenset({"width", "height", "frames", "num_frames", "fps", "duration", "aspect_ratio", "resolution"})


class TableError(ValueError):
    """A table that cannot be used; the message names it and what would be accepted."""


class ScoreTable:
    """A Parquet table with one row per clip and columns of numbers; read column by column."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            TableError: it is missing, no Parquet file, has no rows, or no column that tells clips or none of numbers.
        """
        self.path = path
        try:
            with pq.ParquetFile(path) as file:
                fields, self.rows = file.schema_arrow, file.metadata.num_rows
        except (pa.ArrowException, OSError) as error:
            raise TableError(f"--table {path}: cannot be read ({error}); accepted: a Parquet file") from error
        self.names = tuple(f.name for f in fields if _is_number(f.type) and f.name not in _IN_THE_INDEX)
        """Columns of numbers, without those that the index has itself."""
        told_by = [name for name in _JOINED if name in fields.names]
        if not told_by or not self.names or not self.rows:
            raise TableError(
                f"--table {path}: has {self.rows} rows with the columns {', '.join(fields.names)}; accepted: key or "
                "path, and columns of numbers"
            )
        self._told_by = told_by[0]
        self._whole = {f.name: pa.types.is_integer(f.type) for f in fields}

    def columns(self, taken: Sequence[str] = ()) -> list[Column]:
        """Its columns of numbers; names that are `taken` get another one."""
        pilots = self._pilots()
        return [
            Column(
                f"table_{name}" if name in taken else name,
                f"{label_of(name)} ({self.path.name})",
                "",
                partial(self._column, name),
                pilots[name],
                self._whole[name],
            )
            for name in self.names
        ]

    def values_of(self, keys: Sequence[str]) -> list[dict[str, float] | None]:
        """Numbers of each of the clips, by the table's own names; None for a clip that has no row.

        A row's path is turned into a key as build_shards.py does it. Of several rows the first counts.
        """
        wanted: dict[str, list[int]] = {}  # folders may have the same keys
        for place, key in enumerate(keys):
            wanted.setdefault(_comparable(key), []).append(place)
        found: list[dict[str, float] | None] = [None] * len(keys)
        with pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(columns=[self._told_by, *self.names]):
                names = batch.column(0).cast(pa.string())
                if self._told_by == "path":
                    names = pc.replace_substring_regex(names, r"\.[^./]*$", "")
                # The last part only, and coarsely: what may be one of the keys is looked at closely below.
                last = pc.replace_substring_regex(names, r"^.*[/\\]", "")
                coarse = pc.replace_substring_regex(last, r"[^0-9A-Za-z]+", "")
                candidates = pc.indices_nonzero(pc.is_in(coarse, pa.array([_coarse(key) for key in keys])))
                for place, row in zip(candidates.to_pylist(), batch.take(candidates).to_pylist(), strict=True):
                    for number in wanted.get(_comparable(names[place].as_py()), ()):
                        if found[number] is None:
                            found[number] = {name: row[name] for name in self.names if row[name] is not None}
        return found

    def _pilots(self) -> dict[str, NDArray]:
        rows, start = pilot_rows(self.rows), 0
        parts: dict[str, list[NDArray]] = {name: [] for name in self.names}
        for chunk in self._chunks(list(self.names)):
            stop = start + len(chunk[0])
            chosen = rows[(rows >= start) & (rows < stop)] - start
            for name, values in zip(self.names, chunk, strict=True):
                parts[name].append(values[chosen])
            start = stop
        return {name: np.concatenate(values) for name, values in parts.items()}

    def _column(self, name: str) -> Iterator[NDArray]:
        return (chunk for (chunk,) in self._chunks([name]))

    def _chunks(self, names: list[str]) -> Iterator[list[NDArray]]:
        """Columns of consecutive rows, as floats; NaN for a null."""
        with pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(columns=names):
                yield [column.cast(pa.float64()).to_numpy(zero_copy_only=False) for column in batch.columns]


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _comparable(name: str) -> str:
    """A key, or a path without its suffix, in the form that keys have: relative, in plain letters."""
    return clean_key("/".join(part for part in name.split("/") if part not in ("", ".", "..")))


def _coarse(key: str) -> str:
    return re.sub(r"[^0-9A-Za-z]+", "", key.rpartition("/")[2])

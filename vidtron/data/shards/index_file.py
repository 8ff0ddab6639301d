"""The index file of one folder, memory-mapped: opening it reads its header, and rows are read when asked for."""

import json
import threading
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from vidtron.data.errors import ShardError
from vidtron.data.shards.index_schema import (
    BUILD_COMMAND,
    COLUMNS,
    DURATIONS,
    FORMAT,
    HEADER_KEY,
    INDEX_NAME,
    OLD_INDEX_NAME,
    REBUILD_COMMAND,
    VERSION,
    WHOLE,
)

_DTYPES = {pa.int16(): np.int16, pa.int32(): np.int32, pa.int64(): np.int64, pa.float64(): np.float64}
_NO_INTEGER = -1
"""What stands for a null among integers."""


def read_header(folder: Path) -> dict[str, Any]:
    """The header of a folder's index.

    Raises:
        ShardError: there is none, or it is of another kind or version.
    """
    return IndexFile(folder / INDEX_NAME).header


class IndexFile:
    """Header and columns of an index file. Safe to use from several threads.

    Numpy arrays that it gives are views of the mapped file wherever Arrow's layout is numpy's: no bits, no nulls.
    """

    def __init__(self, path: Path, name: str = "", held: BinaryIO | None = None) -> None:
        """
        Args:
            path: the file.
            name: what errors call it; empty: its path.
            held: stays open as long as this object lives.

        Raises:
            ShardError: it is missing, cut short, of another kind or version, or has no rows.
        """
        self.path = path
        self.name = name or str(path)
        self._held = held
        if not path.is_file():
            raise ShardError(missing(path.parent))
        try:
            self._reader = pa.ipc.open_file(pa.memory_map(str(path)))
        except (pa.ArrowInvalid, OSError) as error:
            raise ShardError(
                f"{self.name}: is no index, or was cut short ({error}); copy it again, or `{REBUILD_COMMAND}`"
            ) from error
        self.header: dict[str, Any] = self._read_header()
        self.rows_per_batch: int = self.header["rows_per_batch"]
        self.shards: list[str] = list(self.header["shards"])
        self.shard_sizes: list[int] = list(self.header["shards"].values())
        self._columns = {name: number for number, name in enumerate(self._reader.schema.names)}
        self._batches: list[pa.RecordBatch | None] = [None] * -(-len(self) // self.rows_per_batch)
        fields = list(self._reader.schema)
        self._dictionaries = {field.name for field in fields if pa.types.is_dictionary(field.type)}
        # Columns whose layout is numpy's, and their views of the mapped file, by record batch and column.
        self._viewed = {field.name for field in fields if field.type in _DTYPES and not field.nullable}
        self._viewed |= self._dictionaries
        self._views: dict[tuple[int, str], np.ndarray] = {}
        self._names: dict[str, list[str]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return int(self.header["samples"])

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of the score columns."""
        return tuple(self.header["scores"])

    @property
    def batches(self) -> int:
        """Number of record batches with rows."""
        return len(self._batches)

    def rows_of(self, number: int) -> int:
        """Rows of a record batch."""
        return min(self.rows_per_batch, len(self) - number * self.rows_per_batch)

    def batch(self, number: int) -> pa.RecordBatch:
        """A record batch; its buffers are the mapped file."""
        found = self._batches[number]
        if found is None:
            with self._lock:  # Arrow does not promise that a reader may be shared
                found = self._batches[number] = self._read_batch(number)
        return found

    def values(self, number: int, name: str) -> np.ndarray:
        """A column of a record batch: numbers, bools, or the codes of a dictionary (see `names`). A null is -1 among
        integers and NaN among floats.

        Raises:
            KeyError: there is no such column, or it has no numbers.
        """
        found = self._views.get((number, name))
        if found is None:
            column = self.batch(number).column(self._columns[name])
            found = _as_numpy(column.indices if name in self._dictionaries else column)
            if found is None:
                raise KeyError(name)
            if name == "duration" and self.header.get(DURATIONS) != WHOLE:
                frames = self.values(number, "frames")
                found = np.where(frames > 1, frames / self.values(number, "fps"), found)
            if name in self._viewed:
                self._views[number, name] = found
        return found

    def is_dictionary(self, name: str) -> bool:
        """Whether a column holds codes, see `names`."""
        return name in self._dictionaries

    def names(self, name: str) -> list[str]:
        """What the codes of a dictionary column stand for."""
        if name not in self._names:
            self._names[name] = self.batch(0).column(self._columns[name]).dictionary.to_pylist()
        return self._names[name]

    def row(self, number: int) -> dict[str, Any]:
        """Columns of a row, but for its scores."""
        batch, place = divmod(number, self.rows_per_batch)
        arrays = self.batch(batch)
        row: dict[str, Any] = {}
        for name in COLUMNS:
            if name in self._viewed:  # many times as fast as Arrow's scalars
                value = self.values(batch, name)[place].item()
                row[name] = self.names(name)[value] if name in self._dictionaries else value
            else:
                row[name] = arrays.column(self._columns[name])[place].as_py()
        return row

    def keys(self, number: int, places: np.ndarray) -> list[str]:
        """Keys of rows of a record batch."""
        column = self.batch(number).column(self._columns["key"])
        return [column[place].as_py() for place in places.tolist()]

    def _read_batch(self, number: int) -> pa.RecordBatch:
        try:
            return self._reader.get_batch(number)
        except (pa.ArrowInvalid, OSError) as error:
            raise ShardError(f"{self.name}: record batch {number} is damaged ({error})") from error

    def _read_header(self) -> dict[str, Any]:
        metadata = self._reader.schema.metadata or {}
        if metadata.get(b"format") != FORMAT.encode():
            raise ShardError(f"{self.name}: is not an index of shards; accepted: what `{BUILD_COMMAND}` writes")
        if metadata.get(b"version") != str(VERSION).encode():
            found = metadata.get(b"version", b"?").decode()
            raise ShardError(
                f"{self.name}: has version {found}; accepted: {VERSION}. `{REBUILD_COMMAND}` makes a new one"
            )
        try:
            _, last = self._reader.get_batch_with_custom_metadata(self._reader.num_record_batches - 1)
            header = json.loads(last[HEADER_KEY])
            absent = {"samples", "rows_per_batch", "scores", "digest", "shards"} - header.keys()
            if absent:
                raise ValueError(f"without {', '.join(sorted(absent))}")
        except (pa.ArrowInvalid, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ShardError(f"{self.name}: its header is damaged ({error!r}); `{REBUILD_COMMAND}`") from error
        if header["samples"] == 0:
            raise ShardError(f"{self.name}: the index is empty")
        return header


def _as_numpy(column: pa.Array) -> np.ndarray | None:
    """Numbers or bools of a column; None if it has others. Done here, since Arrow's own conversion imports pandas."""
    validity, values = column.buffers()[:2]
    whole = slice(column.offset, column.offset + len(column))
    if pa.types.is_boolean(column.type):
        return _bits(values)[whole]
    if column.type not in _DTYPES:
        return None
    numbers = np.frombuffer(values, _DTYPES[column.type])[whole]
    if not column.null_count:
        return numbers
    null = np.nan if pa.types.is_floating(column.type) else _NO_INTEGER
    return np.where(_bits(validity)[whole], numbers, numbers.dtype.type(null))


def _bits(buffer: pa.Buffer) -> np.ndarray:
    return np.unpackbits(np.frombuffer(buffer, np.uint8), bitorder="little").view(np.bool_)


def missing(folder: Path) -> str:
    """What to say of a folder without an index."""
    if not folder.is_dir():
        return f"{folder}: no such folder; accepted: a folder of shards, made by `{BUILD_COMMAND}`"
    if (folder / OLD_INDEX_NAME).is_file():
        return (
            f"{folder}: has an index of version 1 ({OLD_INDEX_NAME}) and none of version {VERSION} ({INDEX_NAME}); "
            f"`{REBUILD_COMMAND}` makes it from the shards as they are"
        )
    if any(folder.glob("*.tar")):
        return (
            f"{folder}: has shards but no finished index ({INDEX_NAME}); accepted: the output of `{BUILD_COMMAND}`, "
            f"or shards of other origin after `{REBUILD_COMMAND}`"
        )
    return f"{folder}: holds no shards ({INDEX_NAME}); accepted: the output of `{BUILD_COMMAND}`"

"""The index file of one folder, memory-mapped: opening it reads its header, and rows are read when asked for."""

import json
import threading
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from vidtron.data.errors import ShardError
from vidtron.data.index_schema import (
    BUILD_COMMAND,
    FORMAT,
    HEADER_KEY,
    INDEX_NAME,
    OLD_INDEX_NAME,
    REBUILD_COMMAND,
    VERSION,
)

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
        column = self.batch(number).column(self._columns[name])
        if pa.types.is_dictionary(column.type):
            column = column.indices
        if not (pa.types.is_primitive(column.type) or pa.types.is_boolean(column.type)):
            raise KeyError(name)
        if column.null_count:
            column = column.fill_null(_NO_INTEGER if pa.types.is_integer(column.type) else float("nan"))
        return column.to_numpy(zero_copy_only=False)

    def is_dictionary(self, name: str) -> bool:
        """Whether a column holds codes, see `names`."""
        return name in self._columns and pa.types.is_dictionary(self._reader.schema.field(name).type)

    def names(self, name: str) -> list[str]:
        """What the codes of a dictionary column stand for."""
        return self.batch(0).column(self._columns[name]).dictionary.to_pylist()

    def row(self, number: int) -> dict[str, Any]:
        """All columns of a row."""
        batch, place = divmod(number, self.rows_per_batch)
        columns = self.batch(batch)
        return {name: columns.column(column)[place].as_py() for name, column in self._columns.items()}

    def keys(self, number: int, places: np.ndarray) -> list[str]:
        """Keys of rows of a record batch."""
        return self.batch(number).column(self._columns["key"]).take(pa.array(places)).to_pylist()

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

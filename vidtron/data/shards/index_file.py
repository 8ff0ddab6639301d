"""The index file of one folder, memory-mapped: opening it checks all of it, and rows are read when asked for."""

import contextlib
import mmap
import os
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from vidtron.data.errors import ShardError
from vidtron.data.shards.arrow_numpy import DTYPES, as_numpy
from vidtron.data.shards.index_checks import BadRowsError, RowChecks
from vidtron.data.shards.index_header import parse_header
from vidtron.data.shards.index_schema import (
    BUILD_COMMAND,
    COLUMNS,
    DURATIONS,
    FORMAT,
    HEADER_KEY,
    HEADER_SUM_KEY,
    INDEX_NAME,
    OLD_INDEX_NAME,
    REBUILD_COMMAND,
    VERSION,
    WHOLE,
    nullable,
    schema,
)

_UNREADABLE = (pa.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError)
"""What Arrow raises for bytes that are not what they claim to be."""
_MOST_THREADS = 8
_MADV_POPULATE_READ = 22  # of Linux 5.14 and later; Python has no name for it
_checked: set[tuple[int, ...]] = set()  # files of which this process has found all rows to be good, in their state


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

    def __init__(self, path: Path, name: str = "", held: BinaryIO | None = None, *, check_rows: bool = True) -> None:
        """
        Args:
            path: the file.
            name: what errors call it; empty: its path.
            held: stays open as long as this object lives.
            check_rows: look at all rows, unless this process has done so; otherwise at the header alone.

        Raises:
            ShardError: it is missing, cut short, of another kind or version, has no rows, or some that cannot be
                those of shards.
        """
        self.path = path
        self.name = name or str(path)
        self._held = held
        try:
            if not path.is_file():
                raise ShardError(missing(path.parent))
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._reader = pa.ipc.open_file(pa.py_buffer(self._map))
        except ShardError:
            raise
        except _UNREADABLE as error:
            raise self._damaged(f"is no index, or was cut short ({_line(error)})") from error
        self.header: dict[str, Any] = self._read_header()
        self.rows_per_batch: int = self.header["rows_per_batch"]
        self.shards: list[str] = list(self.header["shards"])
        self.shard_sizes: list[int] = list(self.header["shards"].values())
        self._columns = {name: number for number, name in enumerate(self._reader.schema.names)}
        self._batches: list[pa.RecordBatch | None] = [None] * -(-len(self) // self.rows_per_batch)
        fields = list(self._reader.schema)
        self._dictionaries = {field.name for field in fields if pa.types.is_dictionary(field.type)}
        # Columns whose layout is numpy's, and their views of the mapped file, by record batch and column.
        self._viewed = {name for name, kind in COLUMNS.items() if kind in DTYPES and not nullable(name)}
        self._viewed |= self._dictionaries
        self._views: dict[tuple[int, str], np.ndarray] = {}
        self._names: dict[str, list[str]] = {}
        self._lock = threading.Lock()
        if check_rows:
            self._check_rows()

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
            found = self._stored(number, name)
            if name == "duration" and self.header.get(DURATIONS) != WHOLE:
                frames = self.values(number, "frames")
                found = np.where(frames > 1, frames / self.values(number, "fps"), found)
            if name in self._viewed:
                self._views[number, name] = found
        return found

    def _stored(self, number: int, name: str) -> np.ndarray:
        """As `values`, but durations as they are in the file."""
        column = self.batch(number).column(self._columns[name])
        found = as_numpy(column.indices if name in self._dictionaries else column)
        if found is None:
            raise KeyError(name)
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
            batch = self._reader.get_batch(number)
        except _UNREADABLE as error:
            raise self._damaged(f"record batch {number} is damaged ({_line(error)})") from error
        if batch.num_rows != self.rows_of(number):
            raise self._damaged(
                f"record batch {number} has {batch.num_rows} rows where the header says {self.rows_of(number)}"
            )
        return batch

    def _read_header(self) -> dict[str, Any]:
        try:
            metadata = self._reader.schema.metadata or {}
        except _UNREADABLE as error:
            raise self._damaged(f"its columns are damaged ({_line(error)})") from error
        if metadata.get(b"format") != FORMAT.encode():
            raise ShardError(f"{self.name}: is not an index of shards; accepted: what `{BUILD_COMMAND}` writes")
        if metadata.get(b"version") != str(VERSION).encode():
            found = metadata.get(b"version", b"?").decode("utf-8", "replace")[:20]
            raise ShardError(
                f"{self.name}: has version {found}; accepted: {VERSION}. `{REBUILD_COMMAND}` makes a new one"
            )
        try:
            _, last = self._reader.get_batch_with_custom_metadata(self._reader.num_record_batches - 1)
            content = last[HEADER_KEY]
            header = parse_header(content)
            if HEADER_SUM_KEY in last and last[HEADER_SUM_KEY] != str(zlib.crc32(content)).encode():
                raise ValueError("its checksum differs")
        except _UNREADABLE as error:
            told = "there is none" if isinstance(error, KeyError) else _line(error)
            raise self._damaged(f"its header is damaged ({told})") from error
        if header["samples"] == 0:
            raise ShardError(f"{self.name}: the index is empty")
        self._check_layout(header)
        return header

    def _check_layout(self, header: dict[str, Any]) -> None:
        """Columns and record batches, as the header tells of them."""
        expected, found = schema(header["scores"]), self._reader.schema
        if not found.equals(expected, check_metadata=False):
            fields = [field for field in expected if found.get_all_field_indices(field.name) == []]
            if fields:
                what = f"it has no column {', '.join(field.name for field in fields)}"
            else:
                different = [field for field in found if field not in list(expected)]
                what = f"its columns are not those of an index: {', '.join(map(str, different)) or 'another order'}"
            raise self._damaged(what[:300])
        batches = -(-header["samples"] // header["rows_per_batch"]) + 1
        if self._reader.num_record_batches != batches:
            raise self._damaged(
                f"it has {self._reader.num_record_batches} record batches where its header asks for {batches}"
            )
        if len(header.get("crc32", [])) not in (0, batches - 1):
            raise self._damaged(f"it has {len(header['crc32'])} checksums of {batches - 1} record batches")

    def _check_rows(self) -> None:
        """Look at all rows; quickly again at a file that has been looked at.

        Threads share the work: neither checksums nor Arrow nor numpy hold the interpreter. What is read is in the
        node's memory afterwards, for all its processes.
        """
        status = self.path.stat()
        state = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if state in _checked:
            return
        for name in self._dictionaries:
            names = self.batch(0).column(self._columns[name]).dictionary
            try:
                names.validate(full=True)
            except pa.ArrowException as error:
                raise self._damaged(f"its column {name} is damaged ({_line(error)})") from error
            if names.null_count:
                raise self._damaged(f"its column {name} has a value that is none")
        checks = RowChecks(np.array(self.shard_sizes, np.int64), self.names("media"), self.scores)

        pieces = self._pieces()
        content = memoryview(self._map)

        def check(number: int) -> tuple[int, int]:
            start, end, crc = pieces[number]
            self._populate(start, end)
            if crc is not None and zlib.crc32(content[start:end]) != crc:
                raise BadRowsError(f"bytes {start} to {end} are not those that were written")
            first = number * self.rows_per_batch
            return checks.check(self.batch(number), lambda name: self._stored(number, name), first)

        threads = min(_MOST_THREADS, len(os.sched_getaffinity(0)))
        with ThreadPoolExecutor(threads, thread_name_prefix="index") as pool:
            try:
                bounds = list(pool.map(check, range(self.batches)))
            except BadRowsError as error:
                pool.shutdown(cancel_futures=True)
                raise self._damaged(str(error)) from error
        for number, (before, after) in enumerate(pairwise(bounds), start=1):
            if after[0] < before[1]:
                row = number * self.rows_per_batch
                raise self._damaged(f"row {row}: shard {after[0]} comes after {before[1]}")
        _checked.add(state)

    def _pieces(self) -> list[tuple[int, int, int | None]]:
        """(first byte, byte behind it, CRC-32) of each record batch with what was written before it. Older indexes
        have no checksums; there the places are about right."""
        told = self.header.get("crc32", [])
        if not told:
            bounds = np.linspace(0, len(self._map), self.batches + 1, dtype=np.int64).tolist()
            return [(start, end, None) for start, end in pairwise(bounds)]
        ends = [0, *(end for end, _ in told)]
        return [(start, end, crc) for (start, end), (_, crc) in zip(pairwise(ends), told, strict=True)]

    def _populate(self, start: int, end: int) -> None:
        """Map a part of the file at once, where the kernel can: page by page, as they are touched, takes longer than
        looking at them."""
        start -= start % mmap.PAGESIZE
        with contextlib.suppress(OSError, ValueError):
            self._map.madvise(_MADV_POPULATE_READ, start, end - start)

    def _damaged(self, what: str) -> ShardError:
        return ShardError(f"{self.name}: {what}; copy it again, or `{REBUILD_COMMAND}`")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


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

"""Writing the index of a folder of shards: row by row, without holding more than one record batch."""

import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vidtron.data.errors import ShardError
from vidtron.data.shards.index_header import SummedFile
from vidtron.data.shards.index_schema import (
    DURATIONS,
    FORMAT,
    HEADER_KEY,
    HEADER_SUM_KEY,
    INDEX_NAME,
    ROWS_PER_BATCH,
    VERSION,
    WHOLE,
    schema,
)
from vidtron.data.shards.sample import IMAGE_EXTENSIONS, IndexRow


class IndexWriter:
    """Writes `index.arrow` of a folder under a temporary name; `finish` puts it in its place.

    A context manager: an index that is not finished is removed.
    """

    def __init__(self, folder: Path, scores: Sequence[str] = (), rows_per_batch: int = ROWS_PER_BATCH) -> None:
        """
        Args:
            folder: the folder of shards.
            scores: names of the score columns.
            rows_per_batch: rows of a record batch.
        """
        self.path = folder / INDEX_NAME
        self.samples = 0
        """Rows so far."""
        self._schema = schema(scores)
        self._scores = tuple(scores)
        self._rows_per_batch = rows_per_batch
        self._rows: list[IndexRow] = []
        self._shards: dict[str, int] = {}
        self._names: dict[str, dict[str, int]] = {
            field.name: {} for field in self._schema if pa.types.is_dictionary(field.type)
        }
        self._last = self._batch([])
        self._digest = hashlib.blake2b(digest_size=16)
        self._temporary = folder / f".{INDEX_NAME}.tmp"
        self._file = self._temporary.open("wb")
        # Dictionaries grow while the file is written.
        options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
        self._summed = SummedFile(self._file)
        self._writer = pa.ipc.new_file(self._summed, self._schema, options=options)

    def add(self, row: IndexRow) -> None:
        """The next sample. Shards are numbered in the order in which they come."""
        self._rows.append(row)
        if len(self._rows) == self._rows_per_batch:
            self._flush()

    def add_batch(self, batch: pa.RecordBatch) -> None:
        """Many samples, as columns: `rows_per_batch` of them, fewer only at the end.

        Raises:
            ValueError: another number of rows, or other columns.
        """
        if batch.num_rows > self._rows_per_batch or 0 < self._last.num_rows < self._rows_per_batch:
            raise ValueError(f"{batch.num_rows} rows; accepted: {self._rows_per_batch}, fewer in the last batch only")
        if batch.schema != self._schema:
            raise ValueError(f"columns {batch.schema}; accepted: {self._schema}")
        for name in batch.schema.names:
            self._digest_column(name, batch.column(name))
        self._writer.write_batch(batch)
        self._summed.end_piece()
        self._last = batch
        self.samples += batch.num_rows

    def finish(self, shards: dict[str, int], extra: dict[str, Any] | None = None) -> dict[str, Any]:
        """Write the header and put the index in its place; gives the header.

        Args:
            shards: size in bytes of each shard, by name, in the order of their rows.
            extra: further entries of the header.

        Raises:
            ShardError: rows name other shards.
        """
        self._flush()
        if self._shards and list(self._shards) != list(shards):
            raise ShardError(
                f"{self.path}: rows of the shards {', '.join(self._shards)}, but sizes of {', '.join(shards)}"
            )
        self._digest.update(repr(list(shards.items())).encode())
        header = {
            "format": FORMAT,
            "version": VERSION,
            "samples": self.samples,
            "rows_per_batch": self._rows_per_batch,
            "scores": list(self._scores),
            "digest": self._digest.hexdigest(),
            DURATIONS: WHOLE,
            "shards": shards,
            "crc32": self._summed.pieces,
            **(extra or {}),
        }
        # What is known only at the end travels with a last batch without rows.
        content = json.dumps(header, ensure_ascii=False).encode()
        told = {HEADER_KEY: content, HEADER_SUM_KEY: str(zlib.crc32(content)).encode()}
        self._writer.write_batch(self._last.slice(0, 0), custom_metadata=told)
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._temporary.replace(self.path)
        return header

    def __enter__(self) -> "IndexWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._file.closed:
            try:
                self._file.close()  # writes what is left, if it can
            finally:
                self._temporary.unlink(missing_ok=True)

    def _flush(self) -> None:
        if self._rows:
            self.add_batch(self._batch(self._rows))
            self._rows.clear()

    def _batch(self, rows: list[IndexRow]) -> pa.RecordBatch:
        nowhere: tuple[int | None, int | None] = (None, None)
        places: dict[str, list[tuple[int | None, int | None]]] = {
            "media": [row.members[row.media] for row in rows],
            "txt": [row.members["txt"] for row in rows],
            "json": [row.members.get("json", nowhere) for row in rows],
        }
        columns: dict[str, Any] = {
            "shard": [self._shards.setdefault(row.shard, len(self._shards)) for row in rows],
            "key": [row.key for row in rows],
            "media": [row.media for row in rows],
            **{f"{name}_offset": [offset for offset, _ in of_name] for name, of_name in places.items()},
            **{f"{name}_size": [size for _, size in of_name] for name, of_name in places.items()},
            "image": [row.media in IMAGE_EXTENSIONS for row in rows],
            "caption_characters": [row.caption_characters for row in rows],
            "caption_tokens": [row.caption_tokens for row in rows],
        }
        for field in self._schema:
            if field.name in self._scores:
                columns[field.name] = [row.scores.get(field.name) for row in rows]
            elif field.name not in columns:
                columns[field.name] = [getattr(row.clip, field.name) for row in rows]
        return pa.record_batch(
            [self._array(field, columns[field.name]) for field in self._schema], schema=self._schema
        )

    def _array(self, field: pa.Field, values: list[Any]) -> pa.Array:
        if not pa.types.is_dictionary(field.type):
            return pa.array(values, field.type)
        names = self._names[field.name]
        codes = [names.setdefault(value, len(names)) for value in values]
        return pa.DictionaryArray.from_arrays(
            pa.array(codes, field.type.index_type), pa.array(list(names), field.type.value_type)
        )

    def _digest_column(self, name: str, column: pa.Array) -> None:
        """Take a column into the digest: by what it says, not by how Arrow lays it out."""
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        self._digest.update(f"{name} {len(column)} {column.type}".encode())
        if column.null_count:
            self._digest.update(column.is_null().to_numpy(zero_copy_only=False).tobytes())
            column = column.drop_null()
        if pa.types.is_large_list(column.type):
            self._digest.update(np.diff(column.offsets.to_numpy()).tobytes())
            column = column.flatten()
        elif pa.types.is_string(column.type):
            lengths = pc.binary_length(column)
            self._digest.update(lengths.to_numpy(zero_copy_only=False).tobytes())
            offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset :][: len(column) + 1]
            self._digest.update(memoryview(column.buffers()[2] or b"")[offsets[0] : offsets[-1]])
            return
        self._digest.update(column.to_numpy(zero_copy_only=False).tobytes())

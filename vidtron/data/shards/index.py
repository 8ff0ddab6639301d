"""The index of folders of shards: what is where, without opening a tar.

A folder of shards holds webdataset tars (members KEY.mp4, KEY.txt, KEY.json) and `index.arrow`, an Arrow IPC file
with one row per sample in the order of the shards. Nothing of it is read before it is asked for, and what is read is
the mapped file itself, which all processes of a node share.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vidtron.data.errors import DamagedSampleError, ShardError
from vidtron.data.shards import remote
from vidtron.data.shards.index_file import IndexFile
from vidtron.data.shards.index_schema import BUILD_COMMAND, CAPTION_KEY, INDEX_NAME
from vidtron.data.shards.sample import CAPTION_EXTENSION, ClipFacts, Sample, ShardFolder
from vidtron.data.shards.shard_cache import ShardCache
from vidtron.data.shards.shard_reader import retried, shard_folder

__all__ = ["INDEX_NAME", "ClipFacts", "DamagedSampleError", "Sample", "ShardError", "ShardIndex"]


class ShardIndex(Sequence[Sample]):
    """All samples of one or several folders, in the order of folders and rows. Safe to use from several threads."""

    def __init__(self, folders: Sequence[str | Path], files: Sequence[IndexFile], cache: ShardCache | None) -> None:
        """See `open`.

        Args:
            folders: the folders.
            files: the index of each of them.
            cache: holds copies of remote shards.
        """
        self.folders = list(folders)
        self.scores = tuple(dict.fromkeys(name for file in files for name in file.scores))
        """Names of the score columns there are, in any of the folders."""
        self._files = list(files)
        self._cache = cache
        self._readers: list[ShardFolder] = [
            shard_folder(folder, file.header["digest"], cache) for folder, file in zip(folders, files, strict=True)
        ]
        self._first_rows = np.cumsum([0, *self.folder_sizes])
        # The record batches of all files, in order: file, number in it, first row.
        self._batch_places = [(file, number) for file in files for number in range(file.batches)]
        self._batch_starts = np.array(
            [
                start + number * file.rows_per_batch
                for start, file in zip(self._first_rows, files, strict=False)
                for number in range(file.batches)
            ],
            dtype=np.int64,
        )
        self._dictionaries: dict[str, tuple[list[str], dict[IndexFile, np.ndarray]]] = {}

    @classmethod
    def open(
        cls, folders: Iterable[str | Path], cache: ShardCache | None = None, check_shards: bool = True
    ) -> "ShardIndex":
        """Open the indexes of several folders.

        Args:
            folders: paths, or URLs that fsspec opens.
            cache: where copies of remote shards and indexes are kept; None: as ShardCache() says.
            check_shards: see whether the shards of local folders are there, in their sizes.

        Raises:
            ShardError: a folder is missing, has no (readable) index or no samples, the index says what cannot be, or a
                shard is missing or cut short.
        """
        places = [str(folder).rstrip("/") if remote.is_url(folder) else Path(folder) for folder in folders]
        files = [_index_file(place, cache) for place in places]
        if check_shards:
            for place, file in zip(places, files, strict=True):
                if isinstance(place, Path):
                    _check_shards(place, file)
        return cls(places, files, cache)

    def __reduce__(self) -> Any:
        return _opened_again, (self.folders, self._cache)

    @property
    def folder_sizes(self) -> list[int]:
        """Rows of each folder, in order."""
        return [len(file) for file in self._files]

    @property
    def fingerprint(self) -> str:
        """Hash of all rows and shards; the folders' own paths do not count."""
        digests = [file.header["digest"] for file in self._files]
        return hashlib.blake2b(" ".join(digests).encode(), digest_size=16).hexdigest()

    def __len__(self) -> int:
        return int(self._first_rows[-1])

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        number = row + len(self) if row < 0 else row
        if not 0 <= number < len(self):
            raise IndexError(f"row {row} of an index of {len(self)} samples")
        folder = int(np.searchsorted(self._first_rows, number, side="right")) - 1
        return self._sample(folder, int(number - self._first_rows[folder]))

    def __iter__(self) -> Iterator[Sample]:
        return (self[row] for row in range(len(self)))

    def take(self, column: str, rows: np.ndarray) -> np.ndarray:
        """Values of a column in given rows.

        Args:
            column: a column of numbers or bools; a dictionary (codec, pixel_format, media) gives its codes, see
                `names`. Nulls are -1 among integers and NaN among floats; so is a score that a folder does not have.
            rows: int64, any order.

        Raises:
            KeyError: there is no such column of numbers.
            IndexError: there is no such row.
        """
        rows = np.asarray(rows, dtype=np.int64)
        result = np.empty(len(rows), dtype=self._values(0, column).dtype)
        for batch, picked, places in self._by_batch(rows):
            result[picked] = self._values(batch, column)[places]
        return result

    def column(self, name: str, start: int, stop: int) -> np.ndarray:
        """Values of a column in the rows [start, stop), as `take`: a view of the mapped file where one record batch
        holds them all and nothing needs to be translated."""
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"rows {start} to {stop} of an index of {len(self)} samples")
        first = int(np.searchsorted(self._batch_starts, start, side="right")) - 1
        last = max(first + 1, int(np.searchsorted(self._batch_starts, stop, side="left")))
        parts = []
        for batch in range(first, last):
            begin = int(self._batch_starts[batch])
            parts.append(self._values(batch, name)[max(0, start - begin) : stop - begin])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def keys(self, rows: np.ndarray) -> list[str]:
        """Keys of given rows."""
        rows = np.asarray(rows, dtype=np.int64)
        result = np.empty(len(rows), dtype=object)
        for batch, picked, places in self._by_batch(rows):
            file, number = self._batch_places[batch]
            result[picked] = file.keys(number, places)
        return result.tolist()

    def names(self, column: str) -> list[str]:
        """What the codes stand for that `take` gives for a dictionary column."""
        return self._dictionary(column)[0]

    def kinds(self) -> list[tuple[int, int]]:
        """(a row, how many are like it) for every combination of codec, pixel format, plain and image there is.
        Reads these columns of all rows."""
        found: dict[int, tuple[int, int]] = {}
        formats = len(self.names("pixel_format"))
        for batch, start in enumerate(self._batch_starts):
            kind = self._values(batch, "codec").astype(np.int64) * formats + self._values(batch, "pixel_format")
            kind = (kind * 2 + self._values(batch, "plain")) * 2 + self._values(batch, "image")
            values, places, counts = np.unique(kind, return_index=True, return_counts=True)
            for value, place, count in zip(values.tolist(), places.tolist(), counts.tolist(), strict=True):
                row, before = found.get(value, (int(start) + place, 0))
                found[value] = (row, before + count)
        return list(found.values())

    def codecs(self) -> dict[str, int]:
        """Number of samples of each codec."""
        result: dict[str, int] = {}
        for row, count in self.kinds():
            codec = self[row].clip.codec
            result[codec] = result.get(codec, 0) + count
        return result

    def _sample(self, folder: int, number: int) -> Sample:
        file, place = self._files[folder], self.folders[folder]
        row = file.row(number)
        shard = file.shards[row["shard"]]
        members = {
            extension: (row[f"{name}_offset"], row[f"{name}_size"])
            for name, extension in (("media", row["media"]), ("txt", CAPTION_EXTENSION), ("json", "json"))
            if row[f"{name}_offset"] is not None
        }
        caption_key = None
        if members[CAPTION_EXTENSION] == members.get("json"):
            caption_key = file.header.get(CAPTION_KEY)
            if caption_key is not None:
                del members[CAPTION_EXTENSION]
        return Sample(
            key=row["key"],
            shard=place / shard if isinstance(place, Path) else f"{place}/{shard}",
            members=members,
            clip=ClipFacts.from_json(row),
            caption_characters=row["caption_characters"],
            media=row["media"],
            caption_tokens=row["caption_tokens"],
            shard_size=file.shard_sizes[row["shard"]],
            caption_key=caption_key,
            folder=self._readers[folder],
        )

    def _by_batch(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray | slice, np.ndarray]]:
        """(record batch, where its rows stand in `rows`, their places in the batch)."""
        if not len(rows):
            return
        if rows.min() < 0 or rows.max() >= len(self):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of an index of {len(self)} samples")
        batches = np.searchsorted(self._batch_starts, rows, side="right") - 1
        order = None
        if (np.diff(batches) < 0).any():
            order = np.argsort(batches, kind="stable")
            batches, rows = batches[order], rows[order]
        bounds = [0, *(np.flatnonzero(np.diff(batches)) + 1).tolist(), len(rows)]
        for begin, end in pairwise(bounds):
            batch = int(batches[begin])
            picked = slice(begin, end) if order is None else order[begin:end]
            yield batch, picked, rows[begin:end] - self._batch_starts[batch]

    def _values(self, batch: int, column: str) -> np.ndarray:
        file, number = self._batch_places[batch]
        if column in self.scores and column not in file.scores:
            return np.full(file.rows_of(number), np.nan)
        values = file.values(number, column)
        if len(self._files) > 1 and file.is_dictionary(column):
            return self._dictionary(column)[1][file][values]
        return values

    def _dictionary(self, column: str) -> tuple[list[str], dict[IndexFile, np.ndarray]]:
        """Names of a dictionary column in all files, and for each file the codes that its own codes become."""
        if column not in self._dictionaries:
            names: dict[str, int] = {}
            codes = {
                file: np.array([names.setdefault(name, len(names)) for name in file.names(column)], dtype=np.int16)
                for file in self._files
            }
            self._dictionaries[column] = (list(names), codes)
        return self._dictionaries[column]


def _opened_again(folders: list[str | Path], cache: ShardCache | None) -> ShardIndex:
    """In another process, which need not look at all rows again."""
    return ShardIndex(folders, [_index_file(place, cache, check_rows=False) for place in folders], cache)


def _index_file(folder: str | Path, cache: ShardCache | None, *, check_rows: bool = True) -> IndexFile:
    if isinstance(folder, Path):
        return IndexFile(folder / INDEX_NAME, check_rows=check_rows)
    url = f"{folder}/{INDEX_NAME}"
    file = retried(lambda: _remote_index(url, cache or ShardCache()), url)
    return IndexFile(Path(file.name), url, held=file, check_rows=check_rows)


def _remote_index(url: str, cache: ShardCache) -> BinaryIO:
    try:
        size = remote.size_of(url)
        if size is None:
            raise ShardError(f"{url}: its server tells no size; accepted: a server that does, or a local copy")
        return cache.acquire(url, size, remote.state_of(url))
    except remote.MissingFileError as error:
        raise ShardError(f"{url}: there is none; accepted: the output of `{BUILD_COMMAND}`, copied there") from error
    except remote.OtherSizeError as error:
        raise OSError(f"{url}: it is being changed ({error})") from error


def _check_shards(folder: Path, file: IndexFile) -> None:
    """Whether the shards of a local folder are there, in their sizes."""
    found = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".tar"):
                found[entry.name] = entry.stat().st_size
    for name, size in zip(file.shards, file.shard_sizes, strict=True):
        if found.get(name) != size:
            state = f"has {found[name]} bytes where the index says {size}" if name in found else "is missing"
            raise ShardError(f"{folder / name}: {state}; copy it again or build the shards again")

"""A folder of cached latents: entries of tensors, read and written by all ranks of a run at once.

cache.json                 what the entries were made with
shard-000000.tar, .jsonl   a part that tools/encode_latents.py made of a shard
part-000000.tar, .jsonl    a part that one rank of a training run wrote, under the next free number
"""

import itertools
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from vidtron.data.latents.header import FLAG, LatentCacheError, claim
from vidtron.data.latents.parts import (
    JOURNAL_SUFFIX,
    TAR_SUFFIX,
    Content,
    Entry,
    PartWriter,
    read_content,
    read_journal,
)
from vidtron.data.latents.table import EntryTable

logger = logging.getLogger(__name__)

Size = tuple[int, int, int]

PART_BYTES = 4 * 2**30
"""A rank begins another part when its own is longer than this."""
_LOOKING_SHARE = 0.02  # of the time may go into looking for what other ranks have written


class LatentStore:
    """The entries of a cache, as they are and as they become. Safe to use from several threads."""

    def __init__(self, folder: Path, terms: Mapping[str, str], sizes: Sequence[Size]) -> None:
        """
        Args:
            folder: new, or a cache made with the same terms.
            terms: see `latent_header.claim`.
            sizes: frames, height and width of all clips of the run.

        Raises:
            LatentCacheError: it cannot be used; each reason named.
        """
        claim(folder, terms)
        self.folder = folder
        self.hits = self.written = self.damaged = 0
        """Entries read, written, and found not to be what their writer wrote, by this process."""
        self._table = EntryTable(sizes)
        self._parts: list[str] = []
        self._read_to: dict[str, tuple[int, int]] = {}  # journal -> (number of the part, bytes read)
        self._writer: PartWriter | None = None
        self._lock = threading.RLock()
        self._look_at = 0.0
        self.refresh()

    def __len__(self) -> int:
        with self._lock:
            return len(self._table)

    def get(self, row: int, key: str, size: Size, frames: Sequence[int]) -> dict[str, Tensor] | None:
        """The tensors of an entry; None where there is none.

        Args:
            row: of the sample in the index of shards.
            key: of the sample.
            size: frames, height and width of the clip.
            frames: numbers of the frames that the clip shows.

        Raises:
            LatentCacheError: the entry shows another sample or other frames, or cannot be read.
        """
        with self._lock:
            place = self._table.get(row, size)
            if place is None and time.monotonic() >= self._look_at:
                self.refresh()
                place = self._table.get(row, size)
            if place is None:
                return None
            part, entry = place
            tar = self.folder / f"{self._parts[part]}{TAR_SUFFIX}"
        try:
            content = read_content(tar, entry)
        except FileNotFoundError:
            content = None
        except OSError as error:
            raise LatentCacheError([f"{FLAG} {tar}: cannot be read for sample {key} ({error})"]) from error
        if content is None:
            self._forget(tar, key, entry)
            return None
        if (content.key, content.frames) != (key, tuple(frames)):
            raise LatentCacheError(
                [
                    f"{FLAG} {self.folder}: the entry of row {row} shows frames {_text(content.frames)} of sample "
                    f"{content.key}, this run frames {_text(frames)} of {key}; accepted: another folder"
                ]
            )
        with self._lock:
            self.hits += 1
        return content.tensors

    def put(self, row: int, size: Size, content: Content) -> None:
        """Write an entry, unless there is one.

        Args:
            row: of the sample in the index of shards.
            size: frames, height and width of the clip.
            content: of the entry.

        Raises:
            LatentCacheError: it cannot be written.
        """
        with self._lock:
            if (row, size) in self._table:
                return
            writer = self._current_writer()
            entry = writer.append(row, size, content)
            number, _ = self._read_to[writer.journal.name]
            self._table.put(number, [entry])
            self.written += 1

    def refresh(self) -> None:
        """Take in what other processes have written since the last look."""
        with self._lock:
            start = time.monotonic()
            own = None if self._writer is None else self._writer.journal.name
            for _, name, length in sorted(self._journals()):
                if name == own:
                    continue
                if name not in self._read_to:
                    self._new_part(name)
                number, read_to = self._read_to[name]
                if length > read_to:
                    entries, read_to = read_journal(self.folder / name, read_to)
                    self._table.put(number, entries)
                    self._read_to[name] = number, read_to
            now = time.monotonic()
            self._look_at = now + (now - start) / _LOOKING_SHARE

    def sync(self) -> None:
        """Return when all that this process has written is on the disk."""
        with self._lock:
            if self._writer is not None:
                self._writer.sync()

    def close(self) -> None:
        """End the part that this process writes. May be called again."""
        with self._lock:
            writer, self._writer = self._writer, None
            if writer is not None:
                writer.close()

    def _journals(self) -> Iterator[tuple[int, str, int]]:
        """(time of the last change, name, bytes) of every finished or growing part's journal."""
        with os.scandir(self.folder) as found:
            for file in found:
                if file.name.endswith(JOURNAL_SUFFIX) and not file.name.startswith("."):
                    status = file.stat()
                    yield status.st_mtime_ns, file.name, status.st_size

    def _current_writer(self) -> PartWriter:
        if self._writer is not None and self._writer.length > PART_BYTES:
            self.close()
        if self._writer is None:
            self._writer = self._next_part()
            self._new_part(self._writer.journal.name)
        return self._writer

    def _next_part(self) -> PartWriter:
        """A part under the first free number."""
        for number in itertools.count(len(self._parts)):
            try:
                return PartWriter(self.folder, f"part-{number:06d}")
            except FileExistsError:
                continue
        raise AssertionError("endless")

    def _new_part(self, journal: str) -> int:
        number = len(self._parts)
        self._parts.append(journal.removesuffix(JOURNAL_SUFFIX))
        self._read_to[journal] = number, 0
        return number

    def _forget(self, tar: Path, key: str, entry: Entry) -> None:
        with self._lock:
            self.damaged += 1
            self._table.remove(entry.row, entry.size)
        logger.warning("%s %s: the entry of sample %s is damaged or gone; it is encoded again", FLAG, tar, key)


def _text(frames: Sequence[int]) -> str:
    return " ".join(map(str, frames))

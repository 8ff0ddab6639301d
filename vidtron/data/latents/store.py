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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from vidtron.data.latents.header import FLAG, LatentCacheError, claim
from vidtron.data.latents.parts import (
    JOURNAL_SUFFIX,
    MOST_ROWS,
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
Problem = Callable[[Size, Mapping[str, Tensor]], str]

PART_BYTES = 4 * 2**30
"""A rank begins another part when its own is longer than this."""
_WARNINGS = 10
_LOOKING_SHARE = 0.02  # of the time may go into looking for what other ranks have written


class LatentStore:
    """The entries of a cache, as they are and as they become. Safe to use from several threads."""

    def __init__(
        self,
        folder: Path,
        terms: Mapping[str, str],
        sizes: Sequence[Size],
        rows: int = MOST_ROWS,
        problem: Problem = lambda size, tensors: "",
    ) -> None:
        """
        Args:
            folder: new, or a cache made with the same terms.
            terms: see `latent_header.claim`.
            sizes: frames, height and width of all clips of the run.
            rows: of the index of shards.
            problem: says what is wrong with an entry's tensors for a clip of a size; nothing if they can be used.

        Raises:
            LatentCacheError: it cannot be used; each reason named.
        """
        claim(folder, terms)
        self.folder = folder
        self.damaged = 0
        """Entries that this process has found not to be what this run can use."""
        self._rows = rows
        self._problem = problem
        self._table = EntryTable(sizes)
        self._parts: list[str] = []
        self._read_to: dict[str, tuple[int, int]] = {}  # journal -> (number of the part, bytes read)
        self._writer: PartWriter | None = None
        self._lock = threading.RLock()
        self._look_at = 0.0
        self._told = 0
        self.refresh()

    def __len__(self) -> int:
        with self._lock:
            return len(self._table)

    def get(self, row: int, key: str, size: Size, frames: Sequence[int]) -> dict[str, Tensor] | None:
        """The tensors of an entry; None where there is none, or one that this run cannot use, which is told.

        Args:
            row: of the sample in the index of shards.
            key: of the sample.
            size: frames, height and width of the clip.
            frames: numbers of the frames that the clip shows.

        Raises:
            LatentCacheError: the file cannot be read now.
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
            problem = "is damaged or gone"
        elif (content.key, content.frames) != (key, tuple(frames)):
            found = f"frames {_text(content.frames)} of sample {content.key}"
            problem = f"shows {found}, this run frames {_text(frames)} of {key}"
        elif told := self._problem(size, content.tensors):
            problem = f"cannot be used ({told})"
        else:
            return content.tensors
        self._forget(tar, key, entry, problem)
        return None

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
                    entries, read_to = self._read(name, read_to)
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

    def _read(self, journal: str, start: int) -> tuple[list[Entry], int]:
        """As `read_journal`, less the entries that cannot be there."""
        lost: list[int] = []
        entries: list[Entry] = []
        end = start
        length: int | None = None
        try:
            entries, end = read_journal(self.folder / journal, start, lost.append)
            tar = self.folder / f"{journal.removesuffix(JOURNAL_SUFFIX)}{TAR_SUFFIX}"
            # A part that grows may be longer by now than a file server says, so it is measured from the start only.
            length = tar.stat().st_size if start == 0 else None
        except FileNotFoundError:
            length = 0
        except OSError as error:
            raise LatentCacheError([f"{FLAG} {self.folder / journal}: cannot be read ({error})"]) from error
        good = [
            entry
            for entry in entries
            if entry.row < self._rows and (length is None or entry.offset + entry.length <= length)
        ]
        count = sum(lost) + len(entries) - len(good)
        if count:
            self.damaged += count
            logger.warning(
                "%s %s: %d entries are damaged or gone; what the run needs of them is encoded again",
                FLAG, self.folder / journal, count,
            )  # fmt: skip
        return good, end

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

    def _forget(self, tar: Path, key: str, entry: Entry, problem: str) -> None:
        with self._lock:
            self.damaged += 1
            self._told += 1
            told = self._told
            self._table.remove(entry.row, entry.size)
        if told <= _WARNINGS:
            last = "; further ones are only counted" if told == _WARNINGS else ""
            logger.warning("%s %s: the entry of sample %s %s; it is encoded again%s", FLAG, tar, key, problem, last)


def _text(frames: Sequence[int]) -> str:
    return " ".join(map(str, frames))

"""One part of a latent cache: a webdataset tar (members KEY.safetensors), and its journal with one line per entry.

A part has one writer, which only appends: first the tar member, then the journal's line. So what a killed writer has
left unfinished has no line, and is not there for readers, who go by the journal. A line also has a checksum, for
machines that lose their power between the two. In every other respect the tar is one like others, and ends as such
when the part is closed.
"""

import json
import os
import struct
import tarfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vidtron.config.foreign_json import parse_json
from vidtron.data.latents.header import FLAG, LatentCacheError

JOURNAL_SUFFIX, TAR_SUFFIX = ".entries.jsonl", ".tar"
MEMBER_EXTENSION = "safetensors"
MOST_ROWS = 1 << 40
"""Most rows that an index can have."""
_BLOCK = tarfile.BLOCKSIZE
_LARGEST = 1 << 61  # bytes of a file
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Entry:
    """Where the content of one entry lies, and of what it is."""

    row: int
    """Row of the index of shards."""
    size: tuple[int, int, int]
    """Frames, height and width of the clip, in pixels."""
    offset: int
    """Where the content begins in the tar."""
    length: int
    """Bytes of it."""
    crc32: int


def read_journal(
    path: Path, start: int = 0, damaged: Callable[[int], None] = lambda lines: None
) -> tuple[list[Entry], int]:
    """(entries of the whole lines from byte `start` on, the byte behind them). Damaged lines are passed over: their
    entries are encoded again.

    Args:
        path: the journal.
        start: byte of it.
        damaged: told how many lines are, if any.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        file.seek(start)
        content = file.read()
    whole = content[: content.rfind(b"\n") + 1]
    lines = whole.splitlines()
    parsed = [_line(line) for line in lines]
    entries = [entry for line in parsed if (entry := _entry(line)) is not None]
    lost = len(lines) - len(entries) - sum(map(_is_skipped, parsed))
    if lost:
        damaged(lost)
    return entries, start + len(whole)


def _line(line: bytes) -> Any:
    """What a line of a journal says; None where it is no JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _is_skipped(line: Any) -> bool:
    return isinstance(line, dict) and "skipped" in line


def _entry(line: Any) -> Entry | None:
    """The entry that a line tells of; None where it tells of none, or of one that cannot be."""
    try:
        frames, height, width = line["size"]
        entry = Entry(line["row"], (frames, height, width), line["offset"], line["bytes"], line["crc32"])
    except (ValueError, KeyError, TypeError):
        return None
    numbers = (entry.row, *entry.size, entry.offset, entry.length, entry.crc32)
    if any(type(number) is not int for number in numbers):
        return None
    good = (
        0 <= entry.row < MOST_ROWS
        and min(entry.size) > 0
        and _BLOCK <= entry.offset < _LARGEST
        and _LENGTH.size < entry.length < _LARGEST
        and 0 <= entry.crc32 < 1 << 32
    )
    return entry if good else None


@dataclass(frozen=True)
class Content:
    """What an entry holds, and what it is of."""

    key: str
    frames: tuple[int, ...]
    """Numbers of the frames that the clip shows."""
    tensors: dict[str, Tensor]
    """On the CPU."""

    def packed(self) -> bytes:
        """The content as the bytes of a safetensors file."""
        from safetensors.torch import save

        tensors = {name: tensor.contiguous() for name, tensor in self.tensors.items()}
        return save(tensors, metadata={"key": self.key, "frames": " ".join(map(str, self.frames))})

    @classmethod
    def unpacked(cls, content: bytes) -> "Content":
        """From what `packed` gave: 8 bytes of the header's length, the header as JSON, the tensors.

        Raises:
            ValueError: it is something else.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            (length,) = _LENGTH.unpack(content[: _LENGTH.size])
            facts = parse_json(content[_LENGTH.size : _LENGTH.size + length])["__metadata__"]
            return cls(facts["key"], tuple(map(int, facts["frames"].split())), load(content))
        except (SafetensorError, struct.error, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"it is no file of safetensors as vidtron writes them ({error!r})") from error


def read_skipped(path: Path) -> list[dict[str, Any]]:
    """The lines of a journal that `PartWriter.skip` has written."""
    return [line for line in map(_line, path.read_bytes().splitlines()) if _is_skipped(line)]


def read_content(tar: Path, entry: Entry) -> Content | None:
    """The content of an entry; None where it is not what its writer has written.

    Raises:
        OSError: the tar cannot be read.
    """
    descriptor = os.open(tar, os.O_RDONLY)
    try:
        if os.fstat(descriptor).st_size < entry.offset + entry.length:
            return None
        content = os.pread(descriptor, entry.length, entry.offset)
    finally:
        os.close(descriptor)
    if zlib.crc32(content) != entry.crc32:
        return None
    try:
        return Content.unpacked(content)
    except ValueError:
        return None


class PartWriter:
    """Writes one part. Not thread-safe."""

    def __init__(self, folder: Path, name: str, *, replace: bool = False) -> None:
        """
        Args:
            folder: the cache.
            name: of the part, without a suffix.
            replace: begin again where there is such a part; otherwise there must be none.

        Raises:
            FileExistsError: there is one.
            LatentCacheError: the folder cannot be written.
        """
        self.folder = folder
        self.journal = folder / f"{name}{JOURNAL_SUFFIX}"
        self.tar = folder / f"{name}{TAR_SUFFIX}"
        flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if replace else os.O_EXCL)
        self._files: list[int] = []
        try:
            for path in (self.journal, self.tar):
                self._files.append(os.open(path, flags, 0o644))
        except FileExistsError:
            self._release()
            raise
        except OSError as error:
            self._release()
            raise self._failure(error) from error
        self._ends = [0, 0]

    @property
    def length(self) -> int:
        """Bytes of the tar so far."""
        return self._ends[1]

    def append(self, row: int, size: Sequence[int], content: Content) -> Entry:
        """Add one entry.

        Args:
            row: of the sample in the index of shards.
            size: frames, height and width of the clip.
            content: of the member.

        Raises:
            LatentCacheError: it could not be written; the entries before it are whole.
        """
        packed = content.packed()
        member = tarfile.TarInfo(f"{content.key}.{MEMBER_EXTENSION}")
        member.size = len(packed)
        header = member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
        frames, height, width = size
        offset = self._ends[1] + len(header)
        entry = Entry(row, (frames, height, width), offset, len(packed), zlib.crc32(packed))
        self._write(1, header + packed + bytes(-len(packed) % _BLOCK))
        self._write_line(
            {
                "row": row,
                "key": content.key,
                "size": [frames, height, width],
                "frames": content.frames,
                "offset": offset,
                "bytes": entry.length,
                "crc32": entry.crc32,
            }
        )
        return entry

    def skip(self, row: int, key: str, shard: str, reason: str) -> None:
        """Note in the journal that a sample has no entry, and why."""
        self._write_line({"row": row, "key": key, "shard": shard, "skipped": reason})

    def sync(self) -> None:
        """Return when all entries are on the disk: the tar's first, then the journal's."""
        try:
            for file in reversed(self._files):
                os.fsync(file)
        except OSError as error:
            raise self._failure(error) from error

    def close(self) -> None:
        """End the tar as tars end, and the part. May be called again."""
        if not self._files:
            return
        try:
            self._write(1, bytes(2 * _BLOCK))
            self.sync()
        finally:
            self._release()

    def discard(self) -> None:
        """Remove the part, which is not finished: its room may be needed."""
        self._release()
        for path in (self.journal, self.tar):
            path.unlink(missing_ok=True)

    def rename(self, name: str) -> None:
        """Give a closed part its name; the journal's comes last, for it makes the part known."""
        for path, suffix in ((self.tar, TAR_SUFFIX), (self.journal, JOURNAL_SUFFIX)):
            path.replace(self.folder / f"{name}{suffix}")

    def _write_line(self, line: dict[str, Any]) -> None:
        self._write(0, json.dumps(line, ensure_ascii=False).encode() + b"\n")

    def _write(self, number: int, content: bytes) -> None:
        """Append to one of the two files; undone where the disk has no room for all of it."""
        file, end = self._files[number], self._ends[number]
        view = memoryview(content)
        try:
            while view:
                view = view[os.pwrite(file, view, end + len(content) - len(view)) :]
        except OSError as error:
            os.ftruncate(file, end)
            raise self._failure(error) from error
        self._ends[number] = end + len(content)

    def _failure(self, error: OSError) -> LatentCacheError:
        return LatentCacheError(
            [
                f"{FLAG} {self.folder}: {self.tar.name} cannot be written ({error.strerror or error}); what was "
                f"written before is whole. Accepted: room and permission to write there, or a run without {FLAG}"
            ]
        )

    def _release(self) -> None:
        for file in self._files:
            os.close(file)
        self._files = []

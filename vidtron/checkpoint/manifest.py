"""The checksums of a checkpoint's files, in one file beside them.

`checksums.json` has the size of every other file of the folder and a checksum (XXH3, 64 bits) of each of its blocks,
so that several ranks and threads can check one file; whether all weights are finite; and a checksum of its own text.
"""

import ctypes
import json
import mmap
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import torch
import xxhash

from vidtron.checkpoint.folders import MANIFEST_FILE

BLOCK_BYTES = 1 << 25
MANIFEST_KEY = "checksums"
"""Of what a checkpoint keeps beside `state` in common.pt: that checksums belong to it, so that losing them shows."""

_VERSION = 1
_ALGORITHM = "xxh3_64"
# What fits a core's cache costs little to hash. Reading goes on beside other work of the process, and waits for the
# interpreter after each piece.
_WRITE_BYTES = 1 << 19
_READ_BYTES = 1 << 20
_MADV_POPULATE_READ = 22  # of Linux 5.14 and later; Python has no name for it
_libc = ctypes.CDLL(None, use_errno=True)
_own = threading.local()


class ManifestError(ValueError):
    """Error: `checksums.json` is damaged, or of a later version."""


@dataclass(frozen=True)
class FileChecksums:
    """Size and checksums of one file."""

    bytes: int
    blocks: list[str]
    """Hexadecimal checksum of each block of `BLOCK_BYTES`, the last one shorter; none for an empty file."""


@dataclass(frozen=True)
class Manifest:
    """Content of `checksums.json`."""

    finite: bool
    """Whether all weights, and their averages, are finite."""
    files: dict[str, FileChecksums]
    """By name in the folder."""

    def dump(self) -> bytes:
        """The text, which holds a checksum of itself."""
        entries = {
            "version": _VERSION,
            "algorithm": _ALGORITHM,
            "block_bytes": BLOCK_BYTES,
            "finite": self.finite,
            "files": {name: asdict(self.files[name]) for name in sorted(self.files)},
        }
        own = xxhash.xxh3_64_hexdigest(json.dumps(entries).encode())
        return (json.dumps({**entries, "checksum": own}, indent=1) + "\n").encode()


def parse(text: bytes) -> Manifest:
    """The manifest of that text.

    Raises:
        ManifestError: it is not exactly what was written.
    """
    try:
        entries = json.loads(text)
        if entries["version"] != _VERSION:
            raise ManifestError(f"version {entries['version']}; accepted: {_VERSION}")
        files = {name: FileChecksums(**entry) for name, entry in entries["files"].items()}
        manifest = Manifest(entries["finite"], files)
        unchanged = manifest.dump() == text
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, ManifestError):
            raise
        raise ManifestError("damaged") from error
    if not unchanged:
        raise ManifestError("damaged")
    return manifest


def read(folder: Path) -> Manifest | None:
    """The manifest of a checkpoint; None if there is no such file.

    Raises:
        ManifestError: it is damaged.
    """
    try:
        return parse((folder / MANIFEST_FILE).read_bytes())
    except FileNotFoundError:
        return None


def write(folder: Path, known: Mapping[str, FileChecksums], *, finite: bool) -> None:
    """Write the manifest of all files in a folder, which nobody writes to any more.

    Args:
        folder: an iter_* folder, perhaps still under another name.
        known: name -> checksums, as far as they were computed while the files were written. The others are read.
        finite: whether all weights are.
    """
    names = sorted(path.name for path in folder.iterdir() if path.name != MANIFEST_FILE)
    files = {name: known[name] if name in known else checksums_of(folder / name) for name in names}
    (folder / MANIFEST_FILE).write_bytes(Manifest(finite, files).dump())


def checksums_of(path: Path) -> FileChecksums:
    """Checksums of an existing file, read once."""
    blocks: list[str] = []
    with path.open("rb", buffering=0) as file:
        size = file.seek(0, 2)
        file.seek(0)
        while file.tell() < size:
            blocks.append(_next_block(file))
    return FileChecksums(size, blocks)


def block_checksum(path: Path, number: int) -> str:
    """Checksum of one block of a file.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        first = number * BLOCK_BYTES
        length = min(BLOCK_BYTES, os.fstat(file.fileno()).st_size - first)
        mapped = _mapped(file.fileno(), first, length)
        if mapped is not None:
            with mapped:
                return xxhash.xxh3_64_hexdigest(mapped)
        file.seek(first)
        return _next_block(file)


def _mapped(descriptor: int, first: int, length: int) -> mmap.mmap | None:
    """A block of a file in memory without a copy, all of it read; None where the system cannot tell of errors then.

    The pages are asked for beforehand, by a call that lets other threads run and returns an error of the disk: left to
    the first look at them it would end the process. So does a file that is cut short in that moment, which no
    program of ours does to a finished checkpoint; reading in pieces, which knows no such end, costs up to three times
    as much while another thread builds a model, for it waits for the interpreter after each piece.
    """
    if length < mmap.PAGESIZE:
        return None
    mapped = mmap.mmap(descriptor, length, access=mmap.ACCESS_COPY, offset=first)
    start = ctypes.c_char.from_buffer(mapped)
    failed = _libc.madvise(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(length), _MADV_POPULATE_READ)
    del start
    if failed:
        mapped.close()
        return None  # an older kernel, or an error that reading names
    return mapped


def _next_block(file: Any) -> str:
    """Checksum of what comes next in a file, up to a block."""
    if not hasattr(_own, "buffer"):
        _own.buffer = memoryview(bytearray(_READ_BYTES))
    checksum, left, view = xxhash.xxh3_64(), BLOCK_BYTES, _own.buffer
    while left and (count := file.readinto(view[: min(left, len(view))])):
        checksum.update(view[:count])
        left -= count
    return checksum.hexdigest()


class HashingFile:
    """A file that is written from its beginning to its end, with the checksums of what passes through."""

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: created, or emptied.
        """
        self._file: BinaryIO = path.open("wb")
        self._hash = xxhash.xxh3_64()
        self._blocks: list[str] = []
        self._size = 0

    def write(self, data: Any) -> int:
        """Append bytes; returns how many."""
        view = memoryview(data).cast("B")
        left = view
        while len(left):
            # Piece by piece: what was just hashed is still in the core's cache when it is copied.
            piece = left[: min(_WRITE_BYTES, BLOCK_BYTES - self._size % BLOCK_BYTES)]
            self._hash.update(piece)
            self._file.write(piece)
            self._size += len(piece)
            left = left[len(piece) :]
            if self._size % BLOCK_BYTES == 0:
                self._blocks.append(self._hash.hexdigest())
                self._hash = xxhash.xxh3_64()
        return len(view)

    def tell(self) -> int:
        """Number of bytes written so far."""
        return self._size

    def flush(self) -> None:
        """Hand what is buffered to the system."""
        self._file.flush()

    def fileno(self) -> int:
        """Descriptor for os.fsync; buffered bytes are handed to the system first."""
        self._file.flush()
        return self._file.fileno()

    def close(self) -> None:
        """End the file; may be called again."""
        if not self._file.closed:
            self._file.close()

    def checksums(self) -> FileChecksums:
        """Checksums of everything that was written."""
        open_block = [self._hash.hexdigest()] if self._size % BLOCK_BYTES else []
        return FileChecksums(self._size, self._blocks + open_block)

    def __enter__(self) -> "HashingFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def without_crc32() -> Iterator[None]:
    """While open, torch.save computes no CRC-32, which costs as much as a third of a save and no reader looks at."""
    if not hasattr(torch.serialization, "set_crc32_options"):  # before torch 2.6
        yield
        return
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)

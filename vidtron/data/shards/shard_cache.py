"""Copies of remote shards in a folder of the node, shared by all its processes.

A copy is made once per node: whoever comes first holds the file's lock and copies, the others wait for it. Every
file of the folder that is being written or read is locked (flock on the file itself), and only files that nobody
has locked are removed, those used longest ago first. Locks end with their process, so a killed one leaves nothing
that stands in the way.
"""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from vidtron.data.errors import ShardError
from vidtron.data.shards import remote

if TYPE_CHECKING:
    from vidtron.config.data import DataConfig

GIB = 1 << 30
_PART = ".part"


def default_path() -> Path:
    """A folder of the system's temporary files, one for each user."""
    return Path(tempfile.gettempdir()) / f"vidtron-cache-{os.getuid()}"


@dataclass(frozen=True)
class ShardCache:
    """The folder of copies."""

    path: Path = field(default_factory=default_path)
    limit_bytes: int = 100 * GIB
    """The copies used longest ago make room. Files that are being read stay, even if the limit is passed by them."""

    @classmethod
    def from_config(cls, data: "DataConfig") -> "ShardCache":
        """The cache that a data configuration asks for."""
        return cls(data.data_cache_path or default_path(), int(data.data_cache_gib * GIB))

    @contextmanager
    def opened(self, url: str, size: int, state: str) -> Iterator[BinaryIO]:
        """The copy of a remote file, opened; copied now if there is none. It is not removed while it is open.

        Args:
            url: of the file.
            size: its bytes, as the index says.
            state: of the remote file; another state is another copy.

        Raises:
            MissingFileError, OtherSizeError: the remote file is gone, or has another size.
            OSError: it cannot be read, or the cache not be written, now.
            ShardError: it is larger than the cache, or the package for such URLs is missing.
        """
        file = self.acquire(url, size, state)
        try:
            yield file
        finally:
            file.close()

    def acquire(self, url: str, size: int, state: str) -> BinaryIO:
        """Open a shard as `opened` does, for as long as the caller keeps the file open."""
        target = self.path / f"{hashlib.blake2b(f'{url} {state}'.encode(), digest_size=16).hexdigest()}.{size}"
        file = _open_shared(target, size)
        if file is None:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            # A few locks for all files, so that they need not be cleared away.
            with _locked(self.path / f"{target.name[:2]}.lock"):
                file = _open_shared(target, size) or self._copied(url, target, size)
        os.utime(file.fileno())  # explicit: access times may be switched off
        return file

    def _copied(self, url: str, target: Path, size: int) -> BinaryIO:
        told = remote.size_of(url)
        if told is not None and told != size:
            raise remote.OtherSizeError(f"the file has {told} bytes where the index says {size}")
        part = target.with_name(target.name + _PART)
        file = self._begun(part, size)
        try:
            remote.copy(url, part)
            found = part.stat().st_size
            if found != size:
                raise OSError(f"{url}: only {found} of {size} bytes came")
            os.fsync(file.fileno())
            part.replace(target)
            copy = target.open("rb")
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        finally:
            file.close()
        fcntl.flock(copy, fcntl.LOCK_SH)
        return copy

    def _begun(self, part: Path, size: int) -> BinaryIO:
        """An empty file that is locked, and for which there is room."""
        if size > self.limit_bytes:
            raise ShardError(
                f"--data-cache-gib {self.limit_bytes / GIB:g}: a file of {size} bytes is larger than the cache "
                f"{self.path}"
            )
        with _locked(self.path / "room.lock"):
            file = part.open("w+b")
            fcntl.flock(file, fcntl.LOCK_EX)
            self._make_room()
        return file

    def _make_room(self) -> None:
        """Remove copies until what is there, and is about to be there, fits, as far as it is not in use."""
        files = []
        for entry in os.scandir(self.path):
            if not entry.name.endswith(".lock"):
                try:
                    used = entry.stat().st_mtime_ns
                except FileNotFoundError:
                    continue  # became a copy, or was given up, in this moment
                files.append((used, _reserved(entry.name), Path(entry.path)))
        excess = sum(reserved for _, reserved, _ in files) - self.limit_bytes
        for _, reserved, path in sorted(files):
            if excess > 0 and _remove_unused(path):
                excess -= reserved


def _reserved(name: str) -> int:
    """Bytes that a file has, or will have when it is complete."""
    size = name.removesuffix(_PART).rpartition(".")[2]
    return int(size) if size.isdigit() else 0


def _open_shared(path: Path, size: int) -> BinaryIO | None:
    """A copy, opened and locked against removal; None if there is none of that size."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    # Where it is being removed at this moment, the lock comes when it is gone; what is open can still be read.
    fcntl.flock(file, fcntl.LOCK_SH)
    if os.fstat(file.fileno()).st_size == size:
        return file
    file.close()
    return None


def _remove_unused(path: Path) -> bool:
    """Remove a file that nobody has locked; whether it was."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except (BlockingIOError, FileNotFoundError):
        return False
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process (and thread) at a time; others wait."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

"""A disk that is soon full."""

import contextlib
import os
import resource
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SmallDisk:
    """A folder with little room."""

    folder: Path
    mounted: bool
    """A file system of its own; otherwise a process that takes part `limits` itself."""

    def fill(self, left: int) -> None:
        """Leave so many bytes."""
        if self.mounted:
            status = os.statvfs(self.folder)
            free = status.f_bavail * status.f_frsize
            with (self.folder / "filler").open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, max(free - left, 1))

    def make_room(self) -> None:
        """Take back what `fill` has done."""
        (self.folder / "filler").unlink(missing_ok=True)

    @contextlib.contextmanager
    def limits(self, left: int) -> Iterator[None]:
        """Where nothing can be mounted, no file of this process and its children may be larger than `left` bytes."""
        if self.mounted:
            yield
            return
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (left, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[SmallDisk]:
    """A file system of `size` bytes at `folder` while this is open; where none can be mounted, a plain folder."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield SmallDisk(folder, mounted)
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)

"""Reading bytes of shards: from a local folder, or through the node's cache from any store that fsspec opens.

A read error may pass (a file server that restarts), so it is retried; bytes that are not there do not come back.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from vidtron.data.errors import DamagedSampleError, ShardError
from vidtron.data.shards import remote
from vidtron.data.shards.index_schema import INDEX_NAME
from vidtron.data.shards.sample import ShardFolder
from vidtron.data.shards.shard_cache import ShardCache

PAUSES = (0.1, 0.4, 1.6)
"""Seconds before each of the retries."""

Result = TypeVar("Result")


def retried(action: Callable[[], Result], what: str) -> Result:
    """What `action` gives, tried again after each of the pauses when it raises OSError.

    Raises:
        ShardError: it failed every time; the message begins with `what`.
    """
    for pause in PAUSES:
        try:
            return action()
        except OSError:
            time.sleep(pause)
    try:
        return action()
    except OSError as error:
        raise ShardError(f"{what}: cannot be read, tried {len(PAUSES) + 1} times ({error})") from error


def shard_folder(location: str | Path, digest: str, cache: ShardCache | None) -> ShardFolder:
    """The folder at a path or URL, whose index has that digest; `cache` None: the default cache, for URLs."""
    if remote.is_url(location):
        return RemoteFolder(str(location).rstrip("/"), digest, cache or ShardCache())
    return LocalFolder(Path(location))


@dataclass(frozen=True)
class LocalFolder:
    """Shards in a folder of this machine, or one that is mounted."""

    path: Path

    def read(self, shard: str, shard_size: int, offset: int, size: int, key: str) -> bytes:
        """See `ShardFolder.read`."""
        path = self.path / shard

        def attempt() -> bytes:
            try:
                with path.open("rb") as file:
                    return read_at(file.fileno(), offset, size)
            except FileNotFoundError:
                # A folder whose index is gone too is no folder with a missing shard, but one that is not mounted.
                if (self.path / INDEX_NAME).is_file():
                    raise DamagedSampleError(str(path), key, "the shard is gone") from None
                raise

        return _whole(retried(attempt, str(path)), size, str(path), key)


@dataclass(frozen=True)
class RemoteFolder:
    """Shards in a store that fsspec opens, copied into the node's cache one by one when they are asked for."""

    url: str
    digest: str
    """Digest of the index: copies of shards that were there under another index are not taken."""
    cache: ShardCache

    def read(self, shard: str, shard_size: int, offset: int, size: int, key: str) -> bytes:
        """See `ShardFolder.read`."""
        url = f"{self.url}/{shard}"

        def attempt() -> bytes:
            try:
                with self.cache.opened(url, shard_size, self.digest) as file:
                    return read_at(file.fileno(), offset, size)
            except remote.MissingFileError:
                if remote.exists(f"{self.url}/{INDEX_NAME}"):
                    raise DamagedSampleError(url, key, "the shard is gone") from None
                raise
            except remote.OtherSizeError as error:
                raise DamagedSampleError(url, key, str(error)) from error

        return _whole(retried(attempt, url), size, url, key)


def read_at(descriptor: int, offset: int, size: int) -> bytes:
    """Up to `size` bytes from `offset` on: fewer only at the end of the file."""
    parts = []
    while size > 0 and (part := os.pread(descriptor, size, offset)):
        parts.append(part)
        offset, size = offset + len(part), size - len(part)
    return b"".join(parts)


def _whole(content: bytes, size: int, shard: str, key: str) -> bytes:
    if len(content) != size:
        raise DamagedSampleError(shard, key, "the shard ends inside it; the file is shorter than its index says")
    return content

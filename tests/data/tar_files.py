"""Tars as users of webdataset have them."""

import io
import tarfile
from pathlib import Path

import pyarrow as pa

Members = dict[str, bytes] | list[tuple[str, bytes]]


def tar_bytes(members: Members) -> bytes:
    """A tar of files."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for name, content in members.items() if isinstance(members, dict) else members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return target.getvalue()


def write_tar(path: Path, members: Members, compression: str = "") -> Path:
    """Write a tar; `compression` as Arrow or Python's own modules name it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = tar_bytes(members)
    if compression in ("zstd", "lz4"):
        with pa.CompressedOutputStream(str(path), compression) as file:
            file.write(content)
        return path
    if compression:
        module = __import__({"gzip": "gzip", "bzip2": "bz2", "xz": "lzma"}[compression])
        content = module.compress(content)
    path.write_bytes(content)
    return path

"""Tars as users of webdataset name them: files, brace lists, compressed files, URLs, and the output of commands.

What is named is expanded and opened by the webdataset package. A `pipe:` command is run by a shell, so it is only ever
taken from a command line: names of files, whatever they look like, are opened as files.
"""

import bz2
import gzip
import io
import lzma
import re
import shlex
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from vidtron.config.ranges import name_error, shown
from vidtron.data.building.build_state import BuildError
from vidtron.data.building.clip_source import is_media

PIPE = "pipe:"
ACCEPTED = (
    "a .tar, .tar.gz, .tar.bz2, .tar.xz, .tar.zst or .tar.lz4 file, a brace list such as 'x-{000..009}.tar', a "
    "'pipe:COMMAND', or a URL"
)
_COMPRESSIONS = {
    "gzip": (b"\x1f\x8b", ("gz",), "tgz"),
    "bzip2": (b"BZh", ("bz2",), "tbz2"),
    "xz": (b"\xfd7zXZ\x00", ("xz",), "txz"),
    "zstd": (b"\x28\xb5\x2f\xfd", ("zst", "zstd"), "tzst"),
    "lz4": (b"\x04\x22\x4d\x18", ("lz4",), "tlz4"),
}
"""Name -> (first bytes, suffixes behind .tar, suffix of its own)."""
_READ_ERRORS = (OSError, ValueError, EOFError, zlib.error, lzma.LZMAError)
_MOST_MAGIC = max(len(magic) for magic, _, _ in _COMPRESSIONS.values())
_CHUNK = 1 << 20


@dataclass(frozen=True)
class TarSource:
    """One tar."""

    name: str
    """What webdataset opens: a URL, or the path of a file."""
    path: Path | None
    """Path of a local file; None elsewhere."""

    @property
    def command(self) -> str:
        """What makes shards of it that can be read at random."""
        return f"python tools/build_shards.py --input {shlex.quote(self.name)} --output DIR"

    def not_random(self) -> str:
        """Why nothing in it can be read at random, and what to do; empty where it can.

        Raises:
            OSError: it cannot be read at all.
        """
        if self.path is None:
            why = "it is the output of a command" if self.name.startswith(PIPE) else "it is no local file"
        else:
            with self.path.open("rb") as file:
                kind = compression(file.read(_MOST_MAGIC))
            if not kind:
                return ""
            why = f"it is compressed ({kind})"
        return f"{why}, so that nothing in it can be read at random; `{self.command}` repacks it"


def compression(beginning: bytes) -> str:
    """How a file is compressed, by its first bytes; empty if it is not."""
    return next((name for name, (magic, _, _) in _COMPRESSIONS.items() if beginning.startswith(magic)), "")


def is_tar_name(name: str) -> bool:
    """Whether a file is called as tars are, compressed or not."""
    name = name.lower()
    endings = [".tar"]
    for _, behind, own in _COMPRESSIONS.values():
        endings += [*(f".tar.{suffix}" for suffix in behind), f".{own}"]
    return name.endswith(tuple(endings))


def tars_of(folder: Path) -> list[TarSource]:
    """The tars in a folder, compressed ones included, by name; not those below it."""
    found = sorted(path for path in folder.iterdir() if is_tar_name(path.name) and not path.name.startswith("."))
    return [TarSource(str(path), path) for path in found if path.is_file()]


def tars_or_clips(arguments: Sequence[str]) -> list[TarSource] | None:
    """The tars that the arguments of --input stand for; None for a folder of clips, or a table.

    Raises:
        BuildError: as `expand`; there are several arguments and one holds no tars, or a folder with tars and clips.
    """
    sources: list[TarSource] = []
    for argument in arguments:
        if is_folder(argument):
            found = tars_of_folder(Path(argument)) or []
        else:
            found = [] if _may_be_clips(argument) else expand(argument)
        if not found and len(arguments) == 1:
            return None
        if not found:
            raise BuildError(f"--input {argument}: holds no tars; accepted as one of several inputs: {ACCEPTED}")
        sources += found
    return list(dict.fromkeys(sources))


def is_folder(argument: str) -> bool:
    """Whether an argument of a command line, which may be too long for a name, is a folder."""
    with suppress(OSError):
        return Path(argument).is_dir()
    return False


def tars_of_folder(folder: Path) -> list[TarSource] | None:
    """The tars of a folder that is an input; None where it is one of clips, or no folder.

    Raises:
        BuildError: it holds both.
    """
    found = tars_of(folder) if folder.is_dir() else []
    if found and any(is_media(path) for path in folder.rglob("*")):
        raise BuildError(f"--input {folder}: holds tars and clips; accepted: one of the two")
    return found or None


def _may_be_clips(argument: str) -> bool:
    """Whether an argument is no tar's name: neither one that webdataset expands, nor called so."""
    expands = _is_command_or_url(argument) or "{" in argument or "::" in argument
    return not (expands or is_tar_name(argument))


def expand(argument: str) -> list[TarSource]:
    """The tars that an argument of a command line stands for, in order.

    Args:
        argument: a folder, a file, or what webdataset takes: brace lists, `pipe:` commands, URLs, several of
            them joined by `::`.

    Raises:
        BuildError: it cannot be expanded, or names a file that is not there.
    """
    with suppress(OSError):  # too long for a name, which a command may be
        path = Path(argument)
        if path.is_dir():
            return tars_of(path)
        if path.exists():
            return [TarSource(argument, path)]
    return [_source(name, argument) for name in _expanded(argument)]


def _expanded(argument: str) -> list[str]:
    from webdataset.shardlists import expand_urls

    try:
        return expand_urls(argument)
    except (AssertionError, ValueError) as error:
        raise BuildError(f"{argument}: cannot be expanded ({error}); accepted: {ACCEPTED}") from error


def _source(name: str, argument: str) -> TarSource:
    if _is_command_or_url(name):
        from webdataset.gopen import gopen_schemes

        scheme = name.partition(":")[0]
        if scheme not in (*gopen_schemes, "file"):
            raise BuildError(
                f"{name}: webdataset opens no {scheme}: URLs; accepted: a 'pipe:COMMAND' that reads it, {ACCEPTED}"
            )
        return TarSource(name, None)
    path = Path(name)
    problem = name_error(name)
    if problem is not None:
        raise BuildError(f"{shown(name)}: {problem}")
    if not path.is_file():
        told = name if name == argument else f"{name} (of {argument})"
        raise BuildError(f"{told}: no such file or folder; accepted: a folder, {ACCEPTED}")
    return TarSource(name, path)


def _is_command_or_url(name: str) -> bool:
    return name.startswith(PIPE) or "://" in name


class OpenTar:
    """The bytes of a tar, uncompressed, from its beginning to its end."""

    def __init__(self, source: TarSource) -> None:
        """
        Raises:
            OSError, ValueError: it cannot be opened.
        """
        if source.path is not None:
            self._stream: Any = source.path.open("rb")
        else:
            from webdataset.gopen import gopen, set_options

            self._stream = gopen(source.name)
            # A command that fails at its end has told all before; how it ended is looked at in `finish`.
            set_options(self._stream, ignore_errors=True)
        buffered = io.BufferedReader(_Raw(self._stream), _CHUNK)
        self._file = _uncompressed(buffered, compression(buffered.peek(_MOST_MAGIC)[:_MOST_MAGIC]))
        self._last = b""

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes, or all that are left."""
        content: bytes = self._file.read(size)
        self._last = (self._last + content if len(content) < tarfile.BLOCKSIZE else content)[-tarfile.BLOCKSIZE :]
        return content

    def finish(self) -> str:
        """Read what is behind the tar's end, which a command wants to be rid of, and close: what is wrong, empty
        where nothing is."""
        more = False
        try:
            for chunk in iter(lambda: self.read(_CHUNK), b""):
                more |= any(chunk)
            self._stream.close()
        except _READ_ERRORS as error:
            return str(error)
        status = getattr(self._stream, "status", 0)
        if status not in getattr(self._stream, "ignore_status", (0,)):
            return f"its command ends with status {status}"
        # tarfile takes whatever is no header for the end, and so would miss both.
        if more:
            return "there is more behind its end; accepted: tars one by one, not joined"
        return "" if self._last == bytes(tarfile.BLOCKSIZE) else "it has no end mark"

    def close(self) -> None:
        """Close it wherever it is."""
        with suppress(OSError, ValueError):  # how a command ends that nobody listens to any more
            self._stream.close()


def _uncompressed(file: BinaryIO, kind: str) -> Any:
    if kind == "gzip":
        return gzip.GzipFile(fileobj=file)
    if kind == "bzip2":
        return bz2.BZ2File(file)
    if kind == "xz":
        return lzma.LZMAFile(file)
    if kind:
        import pyarrow as pa

        return pa.CompressedInputStream(file, kind)
    return file


class _Raw(io.RawIOBase):
    """Whatever has `read`, as Python's own buffers want it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._stream.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)


def samples(source: TarSource, complain: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """The samples of a tar as webdataset gives them: `__key__`, and the content of each member by its extension.

    Args:
        source: the tar.
        complain: told what is wrong with the tar: it cannot be opened, or ends early; whole samples before are given.
    """
    from webdataset.tariterators import group_by_keys, tar_file_expander

    told: dict[str, None] = {}

    def handle(error: Exception) -> bool:
        told.setdefault(re.split(r" @ | dict_keys", str(error.args[0] if error.args else error))[0])
        return True

    try:
        tar = OpenTar(source)
    except (OSError, ValueError) as error:
        complain(f"it cannot be opened ({error})")
        return
    try:
        files = tar_file_expander([{"url": source.name, "stream": tar}], handler=handle)
        yield from group_by_keys(files, handler=handle)
        told.setdefault(tar.finish())
    finally:
        tar.close()
    problem = "; ".join(filter(None, told))
    if problem:
        complain(f"it cannot be read to its end ({problem})")

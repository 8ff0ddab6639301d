"""The header of an index file: what is told of all rows, and checksums of the bytes that hold them."""

import re
import zlib
from collections.abc import Mapping
from typing import Any, BinaryIO

from vidtron.config.foreign_json import parse_json
from vidtron.data.shards.index_schema import CAPTION_KEY, DURATIONS, WHOLE

LONGEST_NAME = 255
"""Bytes of a file's name."""
_LARGEST = 1 << 62
_NAME = re.compile(r"[^/\\\0]+")
_KINDS: dict[str, type] = {"samples": int, "rows_per_batch": int, "scores": list, "digest": str, "shards": dict}


class SummedFile:
    """A file that is written from its beginning to its end, with the CRC-32 of each piece of it."""

    def __init__(self, file: BinaryIO) -> None:
        self.pieces: list[tuple[int, int]] = []
        """(byte behind the piece, CRC-32 of it)."""
        self._file = file
        self._length = self._crc = 0

    def write(self, content: Any) -> int:
        """Append."""
        self._crc = zlib.crc32(content, self._crc)
        self._length += memoryview(content).nbytes
        return self._file.write(content)

    def end_piece(self) -> None:
        """What comes next belongs to another piece."""
        self.pieces.append((self._length, self._crc))
        self._crc = 0

    def tell(self) -> int:
        """Bytes so far."""
        return self._length

    def flush(self) -> None:
        """Hand what is written to the system."""
        self._file.flush()

    @property
    def closed(self) -> bool:
        """Whether the file is closed."""
        return self._file.closed


def parse_header(content: bytes) -> dict[str, Any]:
    """The header of an index, from its JSON.

    Raises:
        ValueError: it is no such header; the message says what is wrong.
    """
    header = parse_json(content)
    if not isinstance(header, dict):
        raise ValueError("it is no JSON object")
    absent = _KINDS.keys() - header.keys()
    if absent:
        raise ValueError(f"it is without {', '.join(sorted(absent))}")
    for name, kind in _KINDS.items():
        if type(header[name]) is not kind:
            raise ValueError(f"its {name} is {_short(header[name])}")
    if not 0 <= header["samples"] < _LARGEST or not 0 < header["rows_per_batch"] < _LARGEST:
        raise ValueError(f"it tells of {header['samples']} samples, {header['rows_per_batch']} in a record batch")
    scores = header["scores"]
    if not all(isinstance(name, str) for name in scores) or len(set(scores)) < len(scores):
        raise ValueError(f"its scores are {_short(scores)}; accepted: different names")
    _check_shards(header["shards"])
    if not isinstance(header.get(CAPTION_KEY, ""), str):
        raise ValueError(f"its {CAPTION_KEY} is {_short(header[CAPTION_KEY])}; accepted: text")
    if header.get(DURATIONS, WHOLE) != WHOLE:
        raise ValueError(f"its {DURATIONS} are {_short(header[DURATIONS])}; accepted: {WHOLE}, or nothing")
    pieces = header.get("crc32", [])
    if not isinstance(pieces, list) or not all(map(_is_piece, pieces)):
        raise ValueError("its checksums are none")
    return header


def _check_shards(shards: Mapping[str, Any]) -> None:
    for name, size in shards.items():
        if name in (".", "..") or not _NAME.fullmatch(name) or len(name.encode()) > LONGEST_NAME:
            raise ValueError(f"it names a shard {_short(name)}; accepted: names of files in the index's own folder")
        if type(size) is not int or not 0 <= size < _LARGEST:
            raise ValueError(f"its shard {_short(name)} has {_short(size)} bytes")


def _is_piece(piece: Any) -> bool:
    return (
        isinstance(piece, list)
        and len(piece) == 2
        and all(type(number) is int for number in piece)
        and 0 < piece[0] < _LARGEST
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

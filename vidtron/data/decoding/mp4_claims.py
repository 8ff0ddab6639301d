"""What the boxes of an mp4 or mov claim of its pictures.

FFmpeg tells the size of the coded pictures wherever it can decode one, and other programs believe the boxes.
"""

from collections.abc import Iterator
from typing import BinaryIO

_FIRST = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp"})
_MOST_BOXES = 10_000
_MOST_BYTES = 64 << 20  # of the boxes that describe all tracks
_SAMPLE_ENTRY_SIZE = 24  # bytes of a video's sample entry before its width and height
_FIXED_POINT = 16  # bits behind the point


def claimed_size(file: BinaryIO) -> tuple[int, int]:
    """The largest (width, height) that a video track of a file claims, pixels; (0, 0) in other containers."""
    width = height = 0
    for track in _boxes(_movie(file), b"trak"):
        media = b"".join(_boxes(track, b"mdia"))
        if not any(handler[8:12] == b"vide" for handler in _boxes(media, b"hdlr")):
            continue
        sizes = [(body[-8:-4], body[-4:], _FIXED_POINT) for body in _boxes(track, b"tkhd") if len(body) >= 8]
        for table in _boxes(b"".join(_boxes(b"".join(_boxes(media, b"minf")), b"stbl")), b"stsd"):
            start = 8 + 8 + _SAMPLE_ENTRY_SIZE  # flags and count, then the entry's own head
            sizes.append((table[start : start + 2], table[start + 2 : start + 4], 0))
        for wide, high, bits in sizes:
            width = max(width, int.from_bytes(wide, "big") >> bits)
            height = max(height, int.from_bytes(high, "big") >> bits)
    return width, height


def _movie(file: BinaryIO) -> bytes:
    """The content of the box that describes all tracks; nothing where there is none."""
    place = 0
    for _ in range(_MOST_BOXES):
        file.seek(place)
        head = file.read(16)
        kind = head[4:8]
        if len(head) < 8 or (place == 0 and kind not in _FIRST):
            return b""
        size, skipped = int.from_bytes(head[:4], "big"), 8
        if size == 1:
            size, skipped = int.from_bytes(head[8:16], "big"), 16
        if kind == b"moov":
            file.seek(place + skipped)
            return file.read(min(size - skipped, _MOST_BYTES) if size > skipped else _MOST_BYTES)
        if size < skipped or place + size >= 1 << 62:
            return b""
        place += size
    return b""


def _boxes(content: bytes, wanted: bytes) -> Iterator[bytes]:
    """Contents of the boxes of one kind."""
    place = 0
    while place + 8 <= len(content):
        size, skipped = int.from_bytes(content[place : place + 4], "big"), 8
        if size == 1:
            size, skipped = int.from_bytes(content[place + 8 : place + 16], "big"), 16
        elif size == 0:
            size = len(content) - place
        if size < skipped:
            return
        if content[place + 4 : place + 8] == wanted:
            yield content[place + skipped : place + size]
        place += size

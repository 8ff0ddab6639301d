"""The samples a build will write: clips, cut into pieces where that is asked for, each with its own key."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from vidtron.data.building.clip_source import SourceClip
from vidtron.data.building.probe import seconds_of_video
from vidtron.data.building.transcode import Edit
from vidtron.data.decoding.pyav import UndecodableError

_SHORTEST_SECONDS = 1e-3


@dataclass(frozen=True)
class Piece:
    """One sample to be written."""

    key: str
    clip: SourceClip
    edit: Edit
    problem: str = ""
    """Why it cannot be written, where that is known already."""


class Cutter:
    """Makes the pieces of clips, one clip after the other, each with a key of its own."""

    def __init__(self, edit: Edit, cut_seconds: float | None) -> None:
        """
        Args:
            edit: what is done to each clip; images stay as they are.
            cut_seconds: cut what the edit leaves into pieces of this length; a rest shorter than a piece is left out,
                unless the clip gives no whole piece.
        """
        self.edit = edit
        self.cut_seconds = cut_seconds
        self.left_over = 0.0
        """Seconds left over at the ends of cut clips so far."""
        self._keys: set[str] = set()

    def pieces(self, clip: SourceClip) -> list[Piece]:
        """The pieces of the next clip, in order."""
        if not clip.name:  # no clip, but what is wrong with the file that should hold some
            return [Piece("", clip, Edit(), clip.problem)]
        key = _unused(clip.key or clean_key(clip.name), self._keys)
        if clip.problem or clip.image or self.cut_seconds is None:
            return [Piece(key, clip, Edit() if clip.image else self.edit, clip.problem)]
        try:
            edits, rest = _cut(clip, self.edit, self.cut_seconds)
        except UndecodableError as error:
            return [Piece(key, clip, self.edit, str(error))]
        self.left_over += rest
        return [Piece(_unused(f"{key}-{i:04d}", self._keys), clip, one) for i, one in enumerate(edits)]


def list_pieces(clips: list[SourceClip], edit: Edit, cut_seconds: float | None) -> tuple[list[Piece], float]:
    """(pieces of all clips, in order; seconds left over at the ends of cut clips), see `Cutter`."""
    cutter = Cutter(edit, cut_seconds)
    pieces = [piece for clip in clips for piece in cutter.pieces(clip)]
    return pieces, cutter.left_over


def _cut(clip: SourceClip, edit: Edit, cut_seconds: float) -> tuple[list[Edit], float]:
    length = seconds_of_video(clip.source) - edit.start
    if edit.seconds is not None:
        length = min(length, edit.seconds)
    count = max(1, int((length + _SHORTEST_SECONDS) / cut_seconds))
    edits = [replace(edit, start=edit.start + i * cut_seconds, seconds=cut_seconds) for i in range(count)]
    return edits, max(0.0, length - count * cut_seconds)


def clean_key(name: str) -> str:
    """A name as a key: webdataset ends a key at the first full stop, and tar members should be plain relative
    paths."""
    parts = [re.sub(r"[^\w-]+", "_", part) for part in name.split("/")]
    return "/".join(part for part in parts if part) or "clip"


def _unused(key: str, taken: set[str]) -> str:
    for candidate in _candidates(key):
        if candidate not in taken:
            taken.add(candidate)
            return candidate
    raise AssertionError("endless")


def _candidates(key: str) -> Iterator[str]:
    yield key
    number = 2
    while True:
        yield f"{key}_{number}"
        number += 1

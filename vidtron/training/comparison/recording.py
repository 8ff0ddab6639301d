"""Tensors of a run on files, in the pieces that its ranks hold.

Each rank appends to two files of its own: `rank_N.bin` has the values, fp32, and `rank_N.jsonl` says what they are, a
line for each piece. So no rank ever gathers a tensor, and a reader needs memory for one whole tensor at a time.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

_NUMBER = 4
"""Bytes."""


class Name(NamedTuple):
    """What a tensor is in a run."""

    step: int
    """From 1; 0: before the first."""
    kind: str
    """weights, states or gradients."""
    key: str
    """A weight's name in checkpoints, or the module whose output it is."""
    sample: int | None = None
    """Position of the sample, of hidden states."""


@dataclass(frozen=True)
class Piece:
    """A box of a tensor, as one rank had it."""

    rank: int
    offset: tuple[int, ...]
    shape: tuple[int, ...]
    digest: str
    """Of the values; copies of a box have equal ones."""
    start: int | None
    """Where the values begin in the rank's file, in bytes; None: only another copy of the box was written."""

    @property
    def slices(self) -> tuple[slice, ...]:
        """Where it lies in the whole tensor."""
        return tuple(slice(first, first + size) for first, size in zip(self.offset, self.shape, strict=True))


@dataclass
class Entry:
    """One tensor."""

    shape: tuple[int, ...]
    boxes: dict[tuple[tuple[int, ...], int], Piece] = field(default_factory=dict)
    """(offset, rank) -> piece: what was written later, in a second attempt at the step, has replaced the first."""

    @property
    def pieces(self) -> list[Piece]:
        """All copies of all boxes."""
        return list(self.boxes.values())


class Writer:
    """The files of one rank."""

    def __init__(self, folder: Path, rank: int, place: dict[str, Any]) -> None:
        """
        Args:
            folder: made if there is none.
            rank: of this process.
            place: the rank's place in the layout, for messages.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._values = (folder / f"rank_{rank}.bin").open("wb")
        self._lines = (folder / f"rank_{rank}.jsonl").open("w", encoding="utf-8")
        self.note("rank", place)

    def note(self, what: str, content: dict[str, Any]) -> None:
        """A line that is no tensor."""
        self._lines.write(json.dumps({"what": what, **content}) + "\n")

    def write(
        self, name: Name, values: Tensor, offset: Sequence[int], whole: Sequence[int], *, digest_only: bool = False
    ) -> None:
        """A box of a tensor.

        Args:
            name: of the tensor.
            values: of the box, of any dtype and on any device.
            offset: where the box begins in the whole tensor.
            whole: shape of that.
            digest_only: another rank writes the values of the same box.
        """
        content = values.detach().to("cpu", torch.float32).reshape(-1).view(torch.uint8).numpy()
        start = None if digest_only else self._values.tell()
        if not digest_only:
            self._values.write(content.data)
        digest = hashlib.blake2b(content, digest_size=8).hexdigest()
        box = {"offset": list(offset), "shape": list(values.shape), "whole": list(whole)}
        self.note("piece", {**name._asdict(), **box, "start": start, "digest": digest})

    def flush(self) -> None:
        """Let all that was written so far be in the files."""
        self._values.flush()
        self._lines.flush()

    def close(self) -> None:
        """Nothing more is written."""
        self._values.close()
        self._lines.close()


@dataclass(frozen=True)
class StepNumbers:
    """What is one number for a whole step."""

    loss: float
    gradient_norm: float


class Recording:
    """What all ranks of a run have written."""

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: of the `Writer`s.

        Raises:
            OSError: it cannot be read.
        """
        self.folder = folder
        self.entries: dict[Name, Entry] = {}
        self.places: dict[int, dict[str, Any]] = {}
        """Rank -> its place in the layout."""
        self.steps: list[StepNumbers] = []
        self.modules: dict[str, str] = {}
        """Key of a tensor -> class of the module that has or makes it."""
        chunks: dict[int, list[str]] = {}
        for path in sorted(folder.glob("rank_*.jsonl")):
            rank = int(path.stem.removeprefix("rank_"))
            with path.open(encoding="utf-8") as lines:
                for line in lines:
                    self._take(rank, json.loads(line), chunks)
        self.order = list(dict.fromkeys(key for _, keys in sorted(chunks.items()) for key in keys))
        """Keys in the order in which the forward pass comes to them."""

    def _take(self, rank: int, line: dict[str, Any], chunks: dict[int, list[str]]) -> None:
        what = line.pop("what")
        if what == "rank":
            self.places[rank] = line
        elif what == "chunk":
            chunks.setdefault(line["number"], line["order"])
            self.modules |= line["modules"]
        elif what == "step":
            self.steps.append(StepNumbers(**line))
        else:
            name = Name(line["step"], line["kind"], line["key"], line["sample"])
            entry = self.entries.setdefault(name, Entry(tuple(line["whole"])))
            piece = Piece(rank, tuple(line["offset"]), tuple(line["shape"]), line["digest"], line["start"])
            entry.boxes[piece.offset, rank] = piece

    def values(self, piece: Piece) -> Tensor:
        """fp32, of a piece that was written; read where it is used."""
        assert piece.start is not None
        path, count = self.folder / f"rank_{piece.rank}.bin", math.prod(piece.shape)
        if not count:
            return torch.empty(piece.shape)
        data = np.fromfile(path, np.float32, count, offset=piece.start)
        return torch.from_numpy(data).view(piece.shape)

    def whole(self, name: Name) -> Tensor:
        """A tensor put together, fp32; NaN where no rank has written anything."""
        entry = self.entries[name]
        tensor = torch.full(entry.shape, math.nan)
        for piece in entry.pieces:
            if piece.start is not None:
                tensor[piece.slices] = self.values(piece)
        return tensor

    def place(self, rank: int) -> str:
        """Where a rank stands, in words."""
        place = self.places[rank]
        told = [f"{what} {place[what][0]} of {place[what][1]}" for what in place if place[what][1] > 1]
        return f"rank {rank}" + (f" ({', '.join(told)})" if told else "")

    def copies_that_differ(self, name: Name) -> Iterator[tuple[Piece, Piece]]:
        """Copies of a box on different ranks that are not the same bits: one that was written, and another."""
        written = {piece.offset: piece for piece in self.entries[name].pieces if piece.start is not None}
        for piece in self.entries[name].pieces:
            first = written.get(piece.offset)
            if first is not None and first.shape == piece.shape and first.digest != piece.digest:
                yield first, piece

"""Which time embedding modulates which tokens where some frames are given to the network clean.

Shape letters: B micro-batch, T latent frames (in `embedding_TBE`: time embeddings), E width of the time embedding.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vidtron.models.layers.conditioning import Segment
from vidtron.parallel.tokens import TokenSplit


@dataclass(frozen=True)
class FrameTimes:
    """The rows of a network's time embeddings and which of them each frame of tokens uses.

    A row says for each sample whether it stands for the sample's own time or for that of a given frame. The first is
    everybody's own, which text uses, and every frame where there is no mask; the others are what the frames' masks
    need, each once.
    """

    own_RB: tuple[tuple[bool, ...], ...]
    """Rows; True: the sample's own time."""
    rows: tuple[int, ...]
    """Row of each frame of tokens."""

    @classmethod
    def of(cls, frame_mask_BT: Tensor | None, samples: int, token_frames: int, patch_size_t: int) -> "FrameTimes":
        """The rows for a mask, True where a frame is learned; it is read on the host, so it had better be there.

        Args:
            frame_mask_BT: of all latent frames; None: all learned.
            samples: of the micro-batch.
            token_frames: tokens along time.
            patch_size_t: latent frames of a token.

        Raises:
            ValueError: the mask is of other frames, or splits a token.
        """
        everyones_own = (True,) * samples
        if frame_mask_BT is None:
            return cls((everyones_own,), (0,) * token_frames)
        if frame_mask_BT.shape != (samples, token_frames * patch_size_t):
            raise ValueError(
                f"a frame mask {tuple(frame_mask_BT.shape)}; accepted: {(samples, token_frames * patch_size_t)}, "
                "samples and latent frames"
            )
        patches = frame_mask_BT.bool().cpu().unflatten(1, (token_frames, patch_size_t))
        if not torch.equal(patches.all(dim=2), patches.any(dim=2)):
            raise ValueError(f"a frame mask that differs inside a token; accepted: runs of {patch_size_t} frames")
        row_of = {everyones_own: 0}
        rows = [row_of.setdefault(tuple(own), len(row_of)) for own in patches[:, :, 0].t().tolist()]
        return cls(tuple(row_of), tuple(rows))

    @property
    def masked(self) -> bool:
        """Whether any frame is given."""
        return len(self.own_RB) > 1

    def select(self, own_BE: Tensor, given_1E: Tensor) -> Tensor:
        """The embeddings that the rows stand for: [T, B, E].

        Args:
            own_BE: of the samples' own times.
            given_1E: of a given frame's.
        """
        own_TB1 = torch.tensor(self.own_RB, device=own_BE.device)[..., None]
        return torch.where(own_TB1, own_BE, given_1E)

    def frame_segments(self, start: int, stop: int) -> tuple[Segment, ...]:
        """Of frames [start, stop), counted from `start`; frames beyond the last are padding and go with it."""
        rows = [self.rows[min(frame, len(self.rows) - 1)] for frame in range(start, stop)]
        return tuple(Segment(first, last, time=row) for first, last, row in _runs(rows))

    def segments(self, split: TokenSplit, *, text: tuple[int, int], video: int) -> tuple[Segment, ...]:
        """Segments of the rows of [text | frames | padding] that a rank holds; padding goes with the last frame.

        Args:
            split: the rank's tokens.
            text: text tokens of the sequence and their kind.
            video: kind of the video's tokens.
        """
        length, kind = text
        frame = (split.tokens - length) // len(self.rows)
        whole = [Segment(0, length, kind)]
        for start, stop, row in _runs(self.rows):
            last = stop == len(self.rows)
            whole.append(Segment(length + start * frame, split.padded if last else length + stop * frame, video, row))
        return tuple(_held(whole, split))


def _runs(rows: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(start, stop, row) of frames in succession that use the same row."""
    start = 0
    for stop in range(1, len(rows) + 1):
        if stop == len(rows) or rows[stop] != rows[start]:
            yield start, stop, rows[start]
            start = stop


def _held(whole: Iterable[Segment], split: TokenSplit) -> Iterator[Segment]:
    """Segments of the whole sequence -> those of this rank's rows."""
    for segment in whole:
        start, stop = max(segment.start, split.start), min(segment.stop, split.stop)
        if start < stop:
            yield Segment(start - split.start, stop - split.start, segment.kind, segment.time)

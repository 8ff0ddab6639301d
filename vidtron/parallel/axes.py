"""Which tokens of a clip stand on which rank, where attention goes along one axis at a time.

A rank's tokens are ordered (space, frame), frame fastest, so that sequence parallelism cuts space. Context parallelism
cuts either frames, and then only the temporal attention's input and output travel; or space, and then the spatial
attention exchanges heads or keys and values as every other attention does. Between attentions all is local.

Shape letters: T frames, S spatial tokens of a frame, t, s those of this rank, padding included, B micro-batch, D
features.
"""

import math
from dataclasses import dataclass
from typing import Literal, Self

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
from megatron.core.tensor_parallel.mappings import all_to_all
from torch import Tensor
from torch.distributed import ProcessGroup

from vidtron.parallel.tokens import Box, padded_length

Axis = Literal["frames", "space"]


def padded_grid(axis: Axis, frames: int, spaces: int, *, cp: int, multiple: int) -> tuple[int, int]:
    """Frames and spatial tokens with padding, where context parallelism cuts `axis`.

    Args:
        axis: the one that is cut.
        frames: of the clip.
        spaces: tokens of a frame.
        cp: context-parallel ranks.
        multiple: of the spatial tokens that a context-parallel rank holds (`parallel.tokens.sequence_multiple`).
    """
    if axis == "frames":
        return padded_length(frames, cp), padded_length(spaces, multiple)
    return frames, padded_length(spaces, cp * multiple)


def choose_axis(frames: int, spaces: int, *, cp: int, multiple: int) -> Axis:
    """The axis that context parallelism cuts: that which needs less padding, frames where there is no difference.

    A clip of fewer frames than ranks (every image) would leave ranks without any: its space is cut.
    """
    if cp == 1:
        return "frames"
    if frames < cp:
        return "space"
    sizes = {
        axis: math.prod(padded_grid(axis, frames, spaces, cp=cp, multiple=multiple)) for axis in ("frames", "space")
    }
    return "space" if sizes["space"] < sizes["frames"] else "frames"


@dataclass(frozen=True)
class AxisSplit:
    """One rank's part of a clip of `frames` x `spaces` tokens."""

    axis: Axis
    frames: int
    spaces: int
    padded_frames: int
    padded_spaces: int
    cp_size: int
    cp_rank: int
    sp_size: int
    sp_rank: int
    granule: int = 1
    """Spatial tokens of this rank that stay together: FP8's matrix products take multiples."""

    @classmethod
    def of_rank(
        cls, frames: int, spaces: int, *, multiple: int, tp: ProcessGroup, cp: ProcessGroup, sequence_parallel: bool
    ) -> Self:
        """The part of the calling rank; arguments as in `padded_grid`."""
        axis = choose_axis(frames, spaces, cp=cp.size(), multiple=multiple)
        padded_frames, padded_spaces = padded_grid(axis, frames, spaces, cp=cp.size(), multiple=multiple)
        sp_size = tp.size() if sequence_parallel else 1
        return cls(
            axis=axis,
            frames=frames,
            spaces=spaces,
            padded_frames=padded_frames,
            padded_spaces=padded_spaces,
            cp_size=cp.size(),
            cp_rank=cp.rank(),
            sp_size=sp_size,
            sp_rank=tp.rank() if sequence_parallel else 0,
            granule=multiple // sp_size,
        )

    @property
    def moves_frames(self) -> bool:
        """The temporal attention's tokens have to be fetched from other ranks."""
        return self.axis == "frames" and self.cp_size > 1

    @property
    def own_frames(self) -> int:
        """Frames of this rank: t."""
        return self.padded_frames // (self.cp_size if self.axis == "frames" else 1)

    @property
    def first_frame(self) -> int:
        """First frame of this rank."""
        return self.cp_rank * self.own_frames if self.axis == "frames" else 0

    @property
    def cp_spaces(self) -> int:
        """Spatial tokens of a context-parallel rank, which attention sees."""
        return self.padded_spaces // (self.cp_size if self.axis == "space" else 1)

    @property
    def own_spaces(self) -> int:
        """Spatial tokens of this rank between attentions: s."""
        return self.cp_spaces // self.sp_size

    @property
    def first_space(self) -> int:
        """First spatial token of this rank."""
        chunk = self.cp_rank * self.cp_spaces if self.axis == "space" else 0
        return chunk + self.sp_rank * self.own_spaces

    @property
    def length(self) -> int:
        """Tokens of this rank between attentions."""
        return self.own_frames * self.own_spaces

    @property
    def real_frames(self) -> int:
        """Frames of this rank that are no padding; where all are, one, for something has to be computed."""
        return max(1, min(self.own_frames, self.frames - self.first_frame))

    @property
    def real_spaces(self) -> int:
        """Spatial tokens of a context-parallel rank that are no padding, or one."""
        first = self.cp_rank * self.cp_spaces if self.axis == "space" else 0
        return max(1, min(self.cp_spaces, self.spaces - first))

    def own(self, x_TSBD: Tensor) -> Tensor:
        """This rank's tokens of a whole clip, zeros where it pads: [s, t, B, D]. What is the same for all frames and
        comes as [1, S, B, D] gives [s, 1, B, D]."""
        x = x_TSBD
        if x.shape[0] > 1:  # one frame is all there is, or stands for all
            x = _slice(x, 0, self.first_frame, self.own_frames)
        return _slice(x, 1, self.first_space, self.own_spaces).transpose(0, 1)

    def gather(self, x_LBD: Tensor, *, tp: ProcessGroup, cp: ProcessGroup) -> Tensor:
        """All tokens, padding cut off, on every rank of the TP and CP groups: [T, S, B, D].

        For a result that every rank uses alike: the backward pass takes a rank's own rows and sums nothing.
        """
        if self.sp_size > 1:
            x_LBD = gather_from_sequence_parallel_region(x_LBD, tensor_parallel_output_grad=False, group=tp)
        if self.cp_size > 1:
            x_LBD = gather_from_sequence_parallel_region(x_LBD, tensor_parallel_output_grad=False, group=cp)
        parts = x_LBD.unflatten(0, (self.cp_size, self.cp_spaces, self.own_frames))
        if self.axis == "frames":
            whole = parts.transpose(1, 2).flatten(0, 1)
        else:
            whole = parts.flatten(0, 1).transpose(0, 1)
        return whole[: self.frames, : self.spaces]

    def by_frame(self, x_LBD: Tensor) -> Tensor:
        """View of tokens by frame: [t, s, B, D]."""
        return x_LBD.unflatten(0, (-1, self.own_frames)).transpose(0, 1)

    @staticmethod
    def by_token(x_tsBD: Tensor) -> Tensor:
        """Undo `by_frame`."""
        return x_tsBD.transpose(0, 1).flatten(0, 1)

    def box(self, x_LD: Tensor) -> Box:
        """The real ones of this rank's tokens, frames by places."""
        first = min(self.first_frame, self.frames), min(self.first_space, self.spaces)
        x_tsD = self.by_frame(x_LD)[: self.frames - first[0], : self.spaces - first[1]]
        return Box(x_tsD, (*first, 0), (self.frames, self.spaces, x_LD.shape[-1]))

    def fetch_frames(self, x_LBD: Tensor, cp: ProcessGroup) -> Tensor:
        """All frames of a part of this rank's space for its frames of all of it: [s t, B, D] -> [s / cp T, B, D].

        Space that does not divide is padded, frames are as padded as they were. One all-to-all.
        """
        missing = -self.own_spaces % (self.cp_size * self.granule)
        x = F.pad(x_LBD, (0, 0, 0, 0, 0, missing * self.own_frames)) if missing else x_LBD
        by_rank = all_to_all(cp, x.contiguous()).unflatten(0, (self.cp_size, -1, self.own_frames))
        return by_rank.transpose(0, 1).flatten(0, 2)

    def return_frames(self, x_LBD: Tensor, cp: ProcessGroup) -> Tensor:
        """Undo `fetch_frames`."""
        by_rank = x_LBD.unflatten(0, (-1, self.cp_size, self.own_frames)).transpose(0, 1).flatten(0, 2)
        return all_to_all(cp, by_rank.contiguous())[: self.length]


def _slice(x: Tensor, dim: int, first: int, length: int) -> Tensor:
    """Elements [first, first + length) along a dimension, zeros beyond its end."""
    size = x.shape[dim]
    first = min(first, size)
    part = x.narrow(dim, first, min(length, size - first))
    missing = length - part.shape[dim]
    if not missing:
        return part
    shape = list(part.shape)
    shape[dim] = missing
    return torch.cat((part, part.new_zeros(shape)), dim)

"""Attention along one axis of a clip: among the tokens of a frame, or of a place in all frames.

Shape letters: T frames, S spatial tokens, t, s those that are here, B micro-batch, N heads, X features of queries,
keys and values of a head, D features.
"""

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from vidtron.models.layers.attention import VideoSelfAttention
from vidtron.models.layers.conditioning import Conditioning, Rotary
from vidtron.models.layers.rotary import rotate
from vidtron.parallel.axes import AxisSplit
from vidtron.parallel.context_parallel import heads_for_tokens, tokens_for_heads


@dataclass(frozen=True)
class AxesConditioning(Conditioning):
    """What a layer is told that attends along two axes; segments are of this rank's frames, rotary of all frames."""

    axes: AxisSplit | None = None
    temporal_embedding_TBE: Tensor | None = None
    """Of the temporal attention's modulation, where it has one of its own."""

    @property
    def split(self) -> AxisSplit:
        """Which tokens this rank has."""
        assert self.axes is not None
        return self.axes


class SpatialAttention(VideoSelfAttention):
    """Among the tokens of each frame."""

    def attend(self, mixed_sBNX: Tensor, conditioning: Conditioning) -> Tensor:
        """[q, k, v] of each head -> what the tokens attend to: [s t, B, N * R]."""
        assert isinstance(conditioning, AxesConditioning)
        axes, cp = conditioning.split, self.pg_collection.cp
        exchange = "none" if axes.axis == "frames" else self.exchange
        if exchange == "a2a":
            mixed_sBNX = heads_for_tokens(mixed_sBNX, cp)
        mixed = mixed_sBNX.unflatten(0, (-1, axes.own_frames))
        spaces, frames, samples = mixed.shape[:3]
        if exchange == "all_gather":  # queries of all own tokens, keys of all that are no padding
            out = self.attention_of(mixed.flatten(1, 2), None, gathered=axes.spaces)
        else:
            mixed = mixed[: axes.spaces, : axes.real_frames]
            out = self.attention_of(mixed.flatten(1, 2), None)
        out = _padded(out.unflatten(1, (-1, samples)), spaces, frames).flatten(0, 1)
        if exchange == "a2a":
            width = self.hidden_size_per_attention_head
            out = tokens_for_heads(out.unflatten(-1, (-1, width)), cp).flatten(2)
        return out


class TemporalAttention(VideoSelfAttention):
    """Among the frames of each place, with rotary positions.

    Where context parallelism cuts frames, tokens are fetched before the linear map and returned after it: of one
    hidden width each, and on the shards of sequence parallelism.
    """

    def __init__(self, *args: Any, rotary_before_norm: bool, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.rotary_before_norm = rotary_before_norm

    def forward(self, hidden_sBD: Tensor, conditioning: Conditioning) -> tuple[Tensor, Tensor | None]:  # type: ignore[override]
        """Hidden states [s t, B, D] (a shard of them under SP) -> the same shape, and the bias still to be added."""
        assert isinstance(conditioning, AxesConditioning)
        axes, cp = conditioning.split, self.pg_collection.cp
        if not axes.moves_frames:
            return super().forward(hidden_sBD, conditioning)
        update_sBD, bias = super().forward(axes.fetch_frames(hidden_sBD, cp), conditioning)
        return axes.return_frames(update_sBD, cp), bias

    def attend(self, mixed_sBNX: Tensor, conditioning: Conditioning) -> Tensor:
        """[q, k, v] of each head -> what the tokens attend to: [s T, B, N * R]."""
        assert isinstance(conditioning, AxesConditioning)
        axes = conditioning.split
        mixed = mixed_sBNX.unflatten(0, (-1, axes.padded_frames))
        spaces, frames, samples = mixed.shape[:3]
        # Space is in parts of all ranks where it has been fetched, and its padding then not at the end.
        real = spaces if axes.moves_frames else axes.real_spaces
        mixed = mixed[:real, : axes.frames].transpose(0, 1)
        out = self.attention_of(mixed.flatten(1, 2), conditioning.rotary)
        out = out.unflatten(1, (-1, samples)).transpose(0, 1)
        return _padded(out, spaces, frames).flatten(0, 1)

    def _normalize_and_rotate(self, query: Tensor, key: Tensor, rotary: Rotary | None) -> tuple[Tensor, Tensor]:
        if not self.rotary_before_norm or rotary is None:
            return super()._normalize_and_rotate(query, key, rotary)
        return super()._normalize_and_rotate(rotate(query, rotary), rotate(key, rotary), None)


def _padded(x_stBD: Tensor, spaces: int, frames: int) -> Tensor:
    """Zeros after the last place and frame."""
    missing = spaces - x_stBD.shape[0], frames - x_stBD.shape[1]
    return F.pad(x_stBD, (0, 0, 0, 0, 0, missing[1], 0, missing[0])) if any(missing) else x_stBD

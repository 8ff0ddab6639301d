"""Layer norm, and its adaptive modulation by segments of tokens.

Shape letters: S tokens of this rank, B micro-batch, D hidden width, T time embeddings, K kinds of tokens.
"""

from collections.abc import Sequence

import torch
from megatron.core.transformer import TransformerConfig
from torch import Tensor, nn

from vidtron.models.layers.conditioning import Segment


class LayerNorm(nn.LayerNorm):
    """Torch's layer norm as megatron-core builds norms.

    mcore's own wrapper refuses sequence parallelism (transformer/torch_norm.py). Under it the weights see only a part
    of the tokens on each rank, so their gradients are marked to be summed over the TP group.
    """

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5):
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        mark_sequence_parallel(self, config)


def mark_sequence_parallel(module: nn.Module, config: TransformerConfig) -> None:
    """Have mcore sum the gradients of `module`'s parameters over the TP group when tokens are split over it."""
    for parameter in module.parameters():
        parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]


def modulate(x_SBD: Tensor, shift_TBKD: Tensor, scale_TBKD: Tensor, segments: Sequence[Segment]) -> Tensor:
    """x * (1 + scale) + shift, each segment with its own vectors: [S, B, D]."""
    parts = [
        torch.addcmul(shift_TBKD[s.time, :, s.kind], x, 1 + scale_TBKD[s.time, :, s.kind])
        for s, x in zip(segments, _split(x_SBD, segments), strict=True)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def gated_residual(residual_SBD: Tensor, gate_TBKD: Tensor, update_SBD: Tensor, segments: Sequence[Segment]) -> Tensor:
    """residual + gate * update, each segment with its own gate: [S, B, D]."""
    residuals, updates = _split(residual_SBD, segments), _split(update_SBD, segments)
    parts = [
        torch.addcmul(residual, gate_TBKD[s.time, :, s.kind], update)
        for s, residual, update in zip(segments, residuals, updates, strict=True)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _split(x_SBD: Tensor, segments: Sequence[Segment]) -> tuple[Tensor, ...]:
    """The rows of each segment; together they are all rows, in order.

    Not by slices: the backward pass of each slice fills a tensor of the whole length.
    """
    return (x_SBD,) if len(segments) == 1 else x_SBD.split([s.stop - s.start for s in segments])

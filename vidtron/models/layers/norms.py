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
        torch.addcmul(shift_TBKD[s.time, :, s.kind], x_SBD[s.start : s.stop], 1 + scale_TBKD[s.time, :, s.kind])
        for s in segments
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def gated_residual(residual_SBD: Tensor, gate_TBKD: Tensor, update_SBD: Tensor, segments: Sequence[Segment]) -> Tensor:
    """residual + gate * update, each segment with its own gate: [S, B, D]."""
    parts = [
        torch.addcmul(residual_SBD[s.start : s.stop], gate_TBKD[s.time, :, s.kind], update_SBD[s.start : s.stop])
        for s in segments
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)

"""Layer norm, and its adaptive modulation by segments of tokens.

Shape letters: S tokens of this rank, B micro-batch, D hidden width, T time embeddings, K kinds of tokens.
"""

from collections.abc import Sequence
from typing import Any

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
    return _Modulate.apply(x_SBD, shift_TBKD, scale_TBKD, segments)


def gated_residual(
    residual_SBD: Tensor,
    gate_TBKD: Tensor,
    update_SBD: Tensor,
    bias_D: Tensor | None,
    segments: Sequence[Segment],
) -> Tensor:
    """residual + gate * (update + bias), each segment with its own gate: [S, B, D]."""
    return _GatedResidual.apply(residual_SBD, gate_TBKD, update_SBD, bias_D, segments)


# Written out, forward and backward, because each segment's rows then go straight to their place in one result: joined
# pieces and the gradients of slices would each pass through memory once more.


class _Modulate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_SBD: Tensor, shift: Tensor, scale: Tensor, segments: Sequence[Segment]) -> Tensor:
        ctx.save_for_backward(x_SBD, scale)
        ctx.segments = segments
        out_SBD = torch.empty_like(x_SBD)
        for s in segments:
            rows = slice(s.start, s.stop)
            factor = 1 + scale[s.time, :, s.kind]
            torch.addcmul(shift[s.time, :, s.kind], x_SBD[rows], factor, out=out_SBD[rows])
        return out_SBD

    @staticmethod
    def backward(ctx: Any, grad_SBD: Tensor) -> tuple[Tensor | None, ...]:
        x_SBD, scale = ctx.saved_tensors
        grad_x, grad_shift, grad_scale = torch.empty_like(x_SBD), torch.zeros_like(scale), torch.zeros_like(scale)
        for s in ctx.segments:
            rows = slice(s.start, s.stop)
            grad_shift[s.time, :, s.kind] += grad_SBD[rows].sum(0)
            grad_scale[s.time, :, s.kind] += torch.mul(grad_SBD[rows], x_SBD[rows], out=grad_x[rows]).sum(0)
            torch.mul(grad_SBD[rows], 1 + scale[s.time, :, s.kind], out=grad_x[rows])
        return grad_x, grad_shift, grad_scale, None


class _GatedResidual(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        residual_SBD: Tensor,
        gate: Tensor,
        update_SBD: Tensor,
        bias: Tensor | None,
        segments: Sequence[Segment],
    ) -> Tensor:
        ctx.save_for_backward(gate, update_SBD, bias)
        ctx.segments = segments
        out_SBD = torch.empty_like(residual_SBD)
        for s in segments:
            rows = slice(s.start, s.stop)
            one = gate[s.time, :, s.kind]
            out = torch.addcmul(residual_SBD[rows], one, update_SBD[rows], out=out_SBD[rows])
            if bias is not None:
                out += one * bias
        return out_SBD

    @staticmethod
    def backward(ctx: Any, grad_SBD: Tensor) -> tuple[Tensor | None, ...]:
        gate, update_SBD, bias = ctx.saved_tensors
        grad_update, grad_gate = torch.empty_like(update_SBD), torch.zeros_like(gate)
        grad_bias = None if bias is None else torch.zeros_like(bias)
        for s in ctx.segments:
            rows = slice(s.start, s.stop)
            one = gate[s.time, :, s.kind]
            sum_BD = torch.mul(grad_SBD[rows], update_SBD[rows], out=grad_update[rows]).sum(0)
            if bias is not None:
                grad_BD = grad_SBD[rows].sum(0)
                sum_BD = torch.addcmul(sum_BD, grad_BD, bias)
                grad_bias += (one * grad_BD).sum(0)
            grad_gate[s.time, :, s.kind] += sum_BD
            torch.mul(grad_SBD[rows], one, out=grad_update[rows])
        return grad_SBD, grad_gate, grad_update, grad_bias, None

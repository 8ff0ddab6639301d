"""Layer norm, and its adaptive modulation by segments of tokens.

Shape letters: S tokens of this rank, B micro-batch, D hidden width, T time embeddings, K kinds of tokens.
"""

from collections.abc import Sequence
from typing import Any

import torch
from megatron.core.dist_checkpointing.mapping import ShardedStateDict
from megatron.core.tensor_parallel import set_tensor_model_parallel_attributes
from megatron.core.tensor_parallel.mappings import all_gather_last_dim_from_tensor_parallel_region
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from vidtron.models.layers.conditioning import Segment


class LayerNorm(nn.LayerNorm):
    """Torch's layer norm as megatron-core builds norms.

    mcore's own wrapper refuses sequence parallelism (transformer/torch_norm.py). Under it the weights see only a part
    of the tokens on each rank, so their gradients are marked to be summed over the TP group.
    """

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5):
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        mark_sequence_parallel(self, config)


class RMSNorm(nn.RMSNorm):
    """Torch's RMS norm (arXiv:1910.07467) as megatron-core builds norms; its weights as in `LayerNorm`."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5):
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        mark_sequence_parallel(self, config)


class AllHeadsRMSNorm(MegatronModule):
    """RMS norm of queries or keys over the features of all heads, which the TP group's ranks hold a part of each.

    The ranks exchange one sum of squares for each token and head and add them in the order of the heads, so that the
    result does not depend on their number. Shape letters: N heads of this rank, H all heads, R features of a head.
    """

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, *, tp: ProcessGroup):
        """
        Args:
            config: mcore's.
            hidden_size: features of one head.
            eps: added to the mean square.
            tp: the TP group.
        """
        super().__init__(config=config)
        # mcore would add up the ranks' gradients of whatever is named q_layernorm or k_layernorm, as if each rank had
        # all of the weights (distributed/finalize_model_grads.py, line 354 of 0.16.1, 453 of 0.19.2).
        assert not config.qk_layernorm, "norms over all heads: with qk_layernorm=False in the TransformerConfig"
        self.eps, self.tp, self.heads = eps, tp, config.num_attention_heads
        self.weight = nn.Parameter(torch.ones(self.heads // tp.size() * hidden_size, dtype=config.params_dtype))
        set_tensor_model_parallel_attributes(self.weight, True, 0, 1)

    def forward(self, x_SBNR: Tensor) -> Tensor:
        """Normalise over all heads: [S, B, N, R] -> [S, B, N, R], computed in fp32."""
        wide = x_SBNR.float()
        squares_SBH = wide.square().sum(-1)
        if self.tp.size() > 1:
            squares_SBH = all_gather_last_dim_from_tensor_parallel_region(squares_SBH, group=self.tp)
        mean_SB = squares_SBH.sum(-1) / (self.heads * x_SBNR.shape[-1])
        normed = wide * torch.rsqrt(mean_SB + self.eps)[..., None, None]
        return (normed * self.weight.float().view(x_SBNR.shape[2:])).to(x_SBNR.dtype)

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple = (), metadata: dict | None = None
    ) -> ShardedStateDict:
        """mcore's sharded state, split by heads."""
        return make_sharded_tensors_for_checkpoint(
            self.state_dict(prefix="", keep_vars=True),
            prefix,
            {"weight": 0},
            sharded_offsets,
            tp_group=self.tp,
            dp_cp_group=(metadata or {})["dp_cp_group"],
        )


def mark_sequence_parallel(module: nn.Module, config: TransformerConfig) -> None:
    """Have mcore sum the gradients of `module`'s parameters over the TP group when tokens are split over it."""
    for parameter in module.parameters():
        parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]


def modulate(x_SBD: Tensor, shift_TBKD: Tensor, scale_TBKD: Tensor, segments: Sequence[Segment]) -> Tensor:
    """x * (1 + scale) + shift, each segment with its own vectors: [S, B, D].

    Here and below, tokens may have more dimensions than one, [F, S, B, D]; segments are along the first.
    """
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


def _over_tokens(x_SBD: Tensor) -> Tensor:
    """The sum over all tokens: [B, D]."""
    return x_SBD.sum(tuple(range(x_SBD.dim() - 2)))


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
            grad_shift[s.time, :, s.kind] += _over_tokens(grad_SBD[rows])
            product = torch.mul(grad_SBD[rows], x_SBD[rows], out=grad_x[rows])
            grad_scale[s.time, :, s.kind] += _over_tokens(product)
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
            sum_BD = _over_tokens(torch.mul(grad_SBD[rows], update_SBD[rows], out=grad_update[rows]))
            if bias is not None:
                grad_BD = _over_tokens(grad_SBD[rows])
                sum_BD = torch.addcmul(sum_BD, grad_BD, bias)
                grad_bias += (one * grad_BD).sum(0)
            grad_gate[s.time, :, s.kind] += sum_BD
            torch.mul(grad_SBD[rows], one, out=grad_update[rows])
        return grad_SBD, grad_gate, grad_update, grad_bias, None

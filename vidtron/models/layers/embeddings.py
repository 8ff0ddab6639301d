"""Embeddings of scalars and positions.

Shape letters: B samples, D width, E width of the time embedding.
"""

import math

import torch
from megatron.core.transformer import TransformerConfig
from torch import Tensor, nn


def sinusoid(values_B: Tensor, width: int) -> Tensor:
    """[cos(v f), sin(v f)] with f_i = 10000^(-i / (width / 2)): [B, width], fp32 (DDPM, arXiv:2006.11239)."""
    half = width // 2
    # The exponents are rounded to fp32 as upstream rounds them; the rest is fp64, because in fp32 the last bit of an
    # exponential depends on the processor, which a timestep of 999 turns into 6e-5 of an angle.
    exponents = -math.log(10000.0) * torch.arange(half, dtype=torch.float32) / half
    frequencies = torch.exp(exponents.double()).to(values_B.device)
    angles = values_B.double()[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1).float()


def sincos_1d(positions: Tensor, width: int) -> Tensor:
    """[sin(x w), cos(x w)] with w_i = 10000^(-i / (width / 2)): [len, width], fp64."""
    frequencies = 10000.0 ** (-torch.arange(width // 2, dtype=torch.float64) / (width / 2))
    angles = torch.outer(positions.to(torch.float64), frequencies)
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


def sincos_3d(frames: int, height: int, width: int, hidden: int, spatial_interpolation: float) -> Tensor:
    """Fixed positions of a grid of video tokens in (t, h, w) order: [frames * height * width, hidden], fp32.

    A quarter of the features for t, then three eighths for w, then three eighths for h; spatial coordinates are
    divided by `spatial_interpolation` in fp32, as upstream does; the rest is computed in fp64.
    """
    time_width, axis_width = hidden // 4, hidden // 8 * 3
    t = sincos_1d(torch.arange(frames), time_width)
    h = sincos_1d(torch.arange(height, dtype=torch.float32) / spatial_interpolation, axis_width)
    w = sincos_1d(torch.arange(width, dtype=torch.float32) / spatial_interpolation, axis_width)
    grid = (frames, height, width)
    parts = (
        t[:, None, None, :].expand(*grid, -1),
        w[None, None, :, :].expand(*grid, -1),
        h[None, :, None, :].expand(*grid, -1),
    )
    return torch.cat(parts, dim=-1).reshape(frames * height * width, hidden).to(torch.float32)


class ScalarEmbedding(nn.Module):
    """A scalar of each sample -> sinusoid -> two linear layers with SiLU between: [B] -> [B, E].

    Every pipeline stage has its own copy and runs it itself; see `mark_replicated_over_stages`.
    """

    def __init__(self, config: TransformerConfig, sinusoid_width: int, width: int):
        super().__init__()
        self.sinusoid_width = sinusoid_width
        self.linear_1 = nn.Linear(sinusoid_width, width, dtype=config.params_dtype)
        self.linear_2 = nn.Linear(width, width, dtype=config.params_dtype)

    def forward(self, values_B: Tensor) -> Tensor:
        """fp32 or integer values; lower precision would merge neighbouring timesteps.

        Raises:
            TypeError: values in bf16 or fp16.
        """
        if values_B.dtype in (torch.bfloat16, torch.float16):
            raise TypeError(f"timesteps must be integers or fp32, not {values_B.dtype}: 801 would become 800")
        embedded = sinusoid(values_B, self.sinusoid_width).to(self.linear_1.weight.dtype)
        return self.linear_2(nn.functional.silu(self.linear_1(embedded)))


def mark_replicated_over_stages(module: nn.Module, *, first: bool) -> None:
    """Keep the copies of `module` on all pipeline stages (and model chunks) one and the same.

    mcore sums the gradients of `pipeline_parallel` parameters over the stages. `shared` leaves all copies but the
    first out of the gradient norm (optimizer/clip_grads.py). `shared_embedding` gives each its own bucket, so that the
    distributed optimizer splits it over the replicas alike on every stage, whatever else a stage holds
    (distributed/param_and_grad_buffer.py); without that, the sum over stages would mix reduced with unreduced parts.
    """
    for parameter in module.parameters():
        parameter.pipeline_parallel = True  # type: ignore[attr-defined]
        parameter.shared_embedding = True  # type: ignore[attr-defined]
        parameter.shared = not first  # type: ignore[attr-defined]

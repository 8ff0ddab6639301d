"""Rotary position embedding over three axes (RoFormer, arXiv:2104.09864; CogVideoX, arXiv:2408.06072 section 2.2).

Shape letters: S tokens, B micro-batch, N heads, R features of a head.
"""

import torch
from torch import Tensor

from vidtron.models.layers.conditioning import Rotary


def axis_angles(positions: Tensor, width: int, base: float = 10000.0) -> Tensor:
    """Angles of one axis: position * base^(-2j/width), j = 0..width/2-1, each twice in a row: [len, width], fp32."""
    # A power in fp32 has a last bit that depends on the processor, which a position of 100 multiplies.
    frequencies = 1.0 / base ** (torch.arange(0, width, 2, dtype=torch.float32) / width).double()
    return torch.outer(positions.to(torch.float32), frequencies.float()).repeat_interleave(2, dim=-1)


def angles_3d(frames: int, height: int, width: int, head_dim: int) -> Tensor:
    """Angles of a grid of video tokens in (t, h, w) order, w fastest: [frames * height * width, head_dim], fp32.

    A quarter of the features turn with t, three eighths with h and three eighths with w; a position is its index.

    Raises:
        ValueError: `head_dim` is no multiple of 16.
    """
    if head_dim % 16:
        raise ValueError(f"3D rotary positions need a head width that is a multiple of 16, not {head_dim}")
    parts = (head_dim // 4, head_dim // 8 * 3, head_dim // 8 * 3)
    sizes = (frames, height, width)
    tables = [axis_angles(torch.arange(size), part) for size, part in zip(sizes, parts, strict=True)]
    grid = (frames, height, width)
    t = tables[0][:, None, None, :].expand(*grid, -1)
    h = tables[1][None, :, None, :].expand(*grid, -1)
    w = tables[2][None, None, :, :].expand(*grid, -1)
    return torch.cat((t, h, w), dim=-1).reshape(frames * height * width, head_dim)


def rotary_table(angles_SR: Tensor, dtype: torch.dtype, device: torch.device) -> Rotary:
    """Cosines and sines, computed in fp32 and rounded to `dtype`, as SAT's are: [S, 1, 1, R / 2] complex."""
    angles = angles_SR[:, None, None, ::2]  # both features of a pair turn by one angle
    cos, sin = (x.to(dtype).to(device=device, dtype=torch.float32) for x in (angles.cos(), angles.sin()))
    return Rotary(torch.complex(cos, sin))


def rotate(x_SBNR: Tensor, rotary: Rotary) -> Tensor:
    """Turn adjacent pairs of features, (x0, x1) -> (x0 cos - x1 sin, x1 cos + x0 sin), in fp32.

    A pair is a complex number: one pass over the memory does what negating, swapping, two products and a sum do.
    """
    pairs = torch.view_as_complex(x_SBNR.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotary.turns).flatten(-2).to(x_SBNR.dtype)

"""Frames of 8 bits and pixels as networks take them.

Shapes: T or F frames, C colours, H height, W width.
"""

import torch
from torch import Tensor


def to_uint8(video_CTHW: Tensor) -> Tensor:
    """Frames [T, C, H, W], uint8 on the CPU, of a video [C, T, H, W] in [-1, 1]; what lies outside is clamped."""
    pixels = (video_CTHW.detach().float().cpu().clamp(-1, 1) + 1) * 127.5
    return pixels.round().to(torch.uint8).permute(1, 0, 2, 3).contiguous()


def pixels_CFHW(frames_FCHW: Tensor) -> Tensor:
    """uint8 frames as float32 in [-1, 1], channels first; `to_uint8` undoes it."""
    return (frames_FCHW.float() / 127.5 - 1.0).permute(1, 0, 2, 3)

"""The networks that upstream's numbers were made with, and where those numbers are."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidtron.diffusion.parameterization import per_sample

DATA = Path(__file__).parents[1] / "reference" / "data"


def read_json(name: str) -> Any:
    return json.loads((DATA / name).read_text())


def cogvideox_velocity(x: Tensor, timesteps_B: Tensor, context: Tensor, image: Tensor | None = None) -> Tensor:
    """v = 0.3 x - 0.2 x^2 + 0.001 t + 0.5 mean(context) (+ 0.1 image)."""
    v = 0.3 * x - 0.2 * x**2 + 0.001 * per_sample(timesteps_B.float(), x) + 0.5 * per_sample(context.mean((1, 2)), x)
    return v if image is None else v + 0.1 * image


def open_sora_output(x_BTCHW: Tensor, timestep: float, condition: float, frame_mask: Tensor | None = None) -> Tensor:
    """eps = 0.3 x + 0.1 cos(t / 100) + 0.05 c, halved on kept frames; the variance half tanh(0.5 x)."""
    eps = 0.3 * x_BTCHW + 0.1 * torch.cos(torch.tensor(timestep / 100)) + 0.05 * condition
    if frame_mask is not None:
        eps = torch.where(frame_mask, eps, 0.5 * eps)
    return torch.cat((eps, torch.tanh(0.5 * x_BTCHW)), dim=2)


def frames_second(latents: Tensor) -> Tensor:
    """Open-Sora's [B, C, T, H, W] <-> ours [B, T, C, H, W]."""
    return latents.transpose(1, 2)

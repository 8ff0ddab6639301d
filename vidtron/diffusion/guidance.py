"""Classifier-free guidance (arXiv:2207.12598)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vidtron.diffusion.variance import CHANNEL_AXIS

Scale = Callable[[float], float]
"""Timestep -> how far to go from the unconditional output through the conditional one; 1 is the conditional one."""


@dataclass(frozen=True)
class ConstantScale:
    """Guidance of the same scale at every timestep."""

    scale: float

    def __call__(self, timestep: float) -> float:
        """The scale at a timestep."""
        return self.scale


@dataclass(frozen=True)
class DynamicScale:
    """CogVideoX's: 1 + scale (1 - cos(pi ((n - t) / n)^exponent)) / 2 with t the training timestep, 999 to 0.

    The formula was made for the step's number; with the timestep, as published and as the released videos are made, it
    jumps about between 1 and 1 + scale. In fp64: the cosine's argument is about 1e8.
    """

    scale: float
    steps: int
    exponent: int = 5

    def __call__(self, timestep: float) -> float:
        """The scale at a timestep, between 1 and 1 + scale."""
        place = ((self.steps - timestep) / self.steps) ** self.exponent
        return 1 + self.scale * (1 - math.cos(math.pi * place)) / 2


def guided(conditional: Tensor, unconditional: Tensor, scale: float, channels: int | None = None) -> Tensor:
    """The guided output of the network.

    Args:
        conditional: output with the condition.
        unconditional: output without it.
        scale: see `Scale`.
        channels: how many channels are guided; the others are the conditional output's. Open-Sora 1.1 guides 3 of 4;
            a learned variance is never guided. None: all.
    """
    if channels is None or channels == conditional.shape[CHANNEL_AXIS]:
        return unconditional + scale * (conditional - unconditional)
    first, rest = conditional.tensor_split([channels], dim=CHANNEL_AXIS)
    without = unconditional.narrow(CHANNEL_AXIS, 0, channels)
    return torch.cat((without + scale * (first - without), rest), dim=CHANNEL_AXIS)

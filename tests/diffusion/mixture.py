"""A Gaussian mixture as data: its ideal denoiser is a formula, for every noise level."""

import torch
from torch import Tensor

from vidtron.diffusion.denoising import Denoised
from vidtron.diffusion.levels import Level

WEIGHTS = torch.tensor([0.3, 0.7], dtype=torch.float64)
MEANS = torch.tensor([-1.2, 0.8], dtype=torch.float64)
STDS = torch.tensor([0.3, 0.5], dtype=torch.float64)

MEAN = (WEIGHTS * MEANS).sum().item()
VARIANCE = ((WEIGHTS * (STDS**2 + MEANS**2)).sum() - MEAN**2).item()
THIRD = (WEIGHTS * ((MEANS - MEAN) ** 3 + 3 * (MEANS - MEAN) * STDS**2)).sum().item()
"""Third central moment: a normal distribution has none."""


def ideal_x0(noisy: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
    """E[x0 | alpha x0 + sigma noise], each number of `noisy` a draw of its own; fp64."""
    x, alpha, sigma = noisy.double()[..., None], _level(alpha), _level(sigma)
    variance = (alpha * STDS) ** 2 + sigma**2
    logits = WEIGHTS.log() - 0.5 * variance.log() - (x - alpha * MEANS) ** 2 / (2 * variance)
    means = MEANS + alpha * STDS**2 / variance * (x - alpha * MEANS)
    return (torch.softmax(logits, dim=-1) * means).sum(-1)


def draw_data(count: int, generator: torch.Generator) -> Tensor:
    """Samples of the mixture, fp64."""
    which = torch.multinomial(WEIGHTS, count, replacement=True, generator=generator)
    return MEANS[which] + STDS[which] * torch.randn(count, generator=generator, dtype=torch.float64)


def ideal_denoiser(noisy: Tensor, level: Level, frame_mask: Tensor | None = None) -> Denoised:
    """As the samplers take it."""
    return Denoised(ideal_x0(noisy, level.alpha, level.sigma))


def _level(level: Tensor | float) -> Tensor:
    return torch.as_tensor(level, dtype=torch.float64)[..., None]

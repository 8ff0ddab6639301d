"""From noise to latents by repeated denoising.

A sampler is called with a denoiser, noise and the levels to walk down, and knows nothing else; what noise it adds on
the way comes through a function, so that it is the same under every layout and batch size. Latents have any shape.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from vidtron.diffusion.denoising import Denoise, Denoised
from vidtron.diffusion.editing import Draw, FrameEdit
from vidtron.diffusion.levels import Level
from vidtron.diffusion.variance import ReversePosterior

Progress = Callable[[list[int]], Sequence[int]]
"""Wraps the list of steps, for a progress bar."""

_Update = Callable[[int, Tensor, Denoised, Tensor | None], Tensor]
"""(number of the step, noisy latents, what the denoiser says of them, frame mask) -> latents at the next level."""


def no_progress(steps: list[int]) -> Sequence[int]:
    """Progress without a bar: the steps as they are."""
    return steps


def no_noise(step: int) -> Tensor:
    """Draw function of samplers that add no noise."""
    raise ValueError("this sampler adds noise: it needs a function `draw`")


def ddim(
    denoise: Denoise,
    noise: Tensor,
    levels: Sequence[Level],
    *,
    eta: float = 0.0,
    draw: Draw = no_noise,
    edit: FrameEdit | None = None,
    progress: Progress = no_progress,
) -> Tensor:
    """DDIM (arXiv:2010.02502), first order, on any schedule.

    Args:
        denoise: the model.
        noise: standard normal, of the latents' shape; with `edit`, the given frames' clean latents in their place.
        levels: falling noise; the last is the clean latent.
        eta: 0 is deterministic, 1 adds as much noise as the posterior has.
        draw: noise of each step; needed where eta is not 0.
        edit: frames that are kept.
        progress: see `Progress`.
    """

    def update(i: int, x: Tensor, denoised: Denoised, frame_mask: Tensor | None) -> Tensor:
        (alpha, variance), (next_alpha, next_variance) = levels[i].numbers(), levels[i + 1].numbers()
        added = eta * _posterior_std(levels[i], levels[i + 1])
        keep = ((next_variance - added**2).clamp(min=0) / variance) ** 0.5
        x = keep * x + (next_alpha - alpha * keep) * denoised.x0
        return x + added * draw(i) if added > 0 else x

    return _walk(denoise, noise, levels, update, edit, progress)


def euler(
    denoise: Denoise,
    noise: Tensor,
    levels: Sequence[Level],
    *,
    edit: FrameEdit | None = None,
    progress: Progress = no_progress,
) -> Tensor:
    """Euler's method for the probability flow: in levels that is deterministic DDIM. Arguments as of `ddim`."""
    return ddim(denoise, noise, levels, edit=edit, progress=progress)


def heun(
    denoise: Denoise,
    noise: Tensor,
    levels: Sequence[Level],
    *,
    progress: Progress = no_progress,
) -> Tensor:
    """Heun's method (EDM, arXiv:2206.00364, algorithm 1): second order, two evaluations a step but the last.

    The flow is dx = x0 d(alpha) + noise d(sigma), each factor taken as the mean of both ends: EDM's algorithm where
    alpha is 1, the trapezoid of the velocity for a rectified flow. Arguments as of `ddim`.
    """

    def update(i: int, x: Tensor, denoised: Denoised, frame_mask: Tensor | None) -> Tensor:
        now, after = levels[i], levels[i + 1]
        x0, direction = denoised.x0, (x - now.alpha * denoised.x0) / now.sigma
        if after.sigma == 0:
            return x0
        ahead = after.alpha * x0 + after.sigma * direction
        ahead_x0 = denoise(ahead, after, frame_mask).x0
        ahead_direction = (ahead - after.alpha * ahead_x0) / after.sigma
        change = (after.alpha - now.alpha) * (x0 + ahead_x0) + (after.sigma - now.sigma) * (
            direction + ahead_direction
        )
        return x + change / 2

    return _walk(denoise, noise, levels, update, None, progress)


def dpmpp_2m(
    denoise: Denoise,
    noise: Tensor,
    levels: Sequence[Level],
    *,
    stochastic: bool = False,
    draw: Draw = no_noise,
    progress: Progress = no_progress,
) -> Tensor:
    """DPM-Solver++ 2M (arXiv:2211.01095) of the probability flow or, `stochastic`, of the SDE, as SAT has them.

    The last step is the denoised latent itself. SAT draws twice in every step but the first and the last and throws
    the first draw away: its draws are those of steps 0, 2, 4, ... of its own count. Arguments as of `ddim`.
    """
    previous: list[tuple[Tensor, Tensor]] = []  # x0 of the step before, and how far it went in log(alpha / sigma)

    def update(i: int, x: Tensor, denoised: Denoised, frame_mask: Tensor | None) -> Tensor:
        x0 = denoised.x0
        if levels[i + 1].sigma == 0:
            return x0
        (alpha, variance), (next_alpha, next_variance) = levels[i].numbers(), levels[i + 1].numbers()
        h = _log_ratio(next_alpha, next_variance) - _log_ratio(alpha, variance)
        wanted = x0
        if previous:
            last_x0, last_h = previous.pop()
            r = last_h / h
            wanted = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * last_x0
        previous.append((x0, h))
        keep = (next_variance / variance) ** 0.5
        if not stochastic:
            return keep * x - torch.expm1(-h) * next_alpha * wanted
        std = next_variance**0.5 * (1 - torch.exp(-2 * h)) ** 0.5
        return keep * torch.exp(-h) * x - torch.expm1(-2 * h) * next_alpha * wanted + std * draw(i)

    return _walk(denoise, noise, levels, update, None, progress)


def ancestral(
    denoise: Denoise,
    noise: Tensor,
    levels: Sequence[Level],
    *,
    draw: Draw = no_noise,
    fixed_variance: Literal["posterior", "beta"] = "beta",
    edit: FrameEdit | None = None,
    progress: Progress = no_progress,
) -> Tensor:
    """DDPM's sampling (arXiv:2006.11239), with the variance that the network has learned if it says one.

    Args:
        denoise: the model.
        noise: as of `ddim`.
        levels: with alpha^2 + sigma^2 = 1; the last is the clean latent.
        draw: noise of each step but the last.
        fixed_variance: where none is learned: the posterior's for data that is one point, or beta, for data that is
            normal.
        edit: frames that are kept.
        progress: see `Progress`.
    """
    steps = len(levels) - 1
    posterior = ReversePosterior(torch.tensor([level.alpha**2 for level in levels[-2::-1]], dtype=torch.float64))

    def update(i: int, x: Tensor, denoised: Denoised, frame_mask: Tensor | None) -> Tensor:
        index_B = torch.full((x.shape[0],), steps - 1 - i, device=x.device)
        mean = posterior.mean(denoised.x0, x, index_B)
        if i == steps - 1:
            return mean
        if denoised.variance is not None:
            log_variance = posterior.learned_log_variance(denoised.variance, index_B)
        elif fixed_variance == "posterior":
            log_variance = posterior.true_log_variance(index_B, x)
        else:
            log_variance = posterior.learned_log_variance(torch.ones_like(x), index_B)
        return mean + torch.exp(0.5 * log_variance) * draw(i)

    return _walk(denoise, noise, levels, update, edit, progress)


def _walk(
    denoise: Denoise,
    noise: Tensor,
    levels: Sequence[Level],
    update: _Update,
    edit: FrameEdit | None,
    progress: Progress,
) -> Tensor:
    """The loop that all samplers share."""
    steps = len(levels) - 1
    # Latents of variance 1 at the first level have this standard deviation: 1 but on EDM's schedule.
    x = noise if edit is not None else noise * math.hypot(levels[0].alpha, levels[0].sigma)
    for i in progress(list(range(steps))):
        if edit is None:
            x = update(i, x, denoise(x, levels[i]), None)
        else:
            noisy, frame_mask, moves = edit.enter(x, i, steps, levels[i])
            made = update(i, noisy, denoise(noisy, levels[i], frame_mask), frame_mask)
            x = torch.where(moves, made, x)
    return x


def _log_ratio(alpha: Tensor, variance: Tensor) -> Tensor:
    """log(alpha / sigma), half the logarithm of the signal-to-noise ratio."""
    return ((alpha**2 / variance) ** 0.5).log()


def _posterior_std(now: Level, after: Level) -> float:
    """Standard deviation of the noisier latent's posterior at the cleaner level."""
    added = max(now.sigma**2 - (now.alpha / after.alpha * after.sigma) ** 2, 0.0)
    return after.sigma / now.sigma * math.sqrt(added)

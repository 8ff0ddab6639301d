"""The noise levels that a sampler walks down."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vidtron.diffusion.continuous import EDMSchedule, shift_fractions
from vidtron.diffusion.schedule import DiscreteSchedule, Schedule, ZeroTerminalSNRSchedule
from vidtron.diffusion.timesteps import space_timesteps, trailing_timesteps

SPACINGS = ("trailing", "even", "ddim")


@dataclass(frozen=True)
class Level:
    """One noise level: a noisy latent is alpha x0 + sigma noise."""

    timestep: float
    """What the network is told."""
    alpha: float
    sigma: float
    as_sat: bool = False
    """Samplers compute their coefficients from it as SAT does: in fp32, from alpha alone. Many steps under strong
    guidance magnify a last bit, so that nothing less gives SAT's latents."""

    def numbers(self) -> tuple[Tensor, Tensor]:
        """alpha and sigma^2 as the samplers compute with them."""
        alpha = torch.tensor(self.alpha, dtype=torch.float32 if self.as_sat else torch.float64)
        return alpha, 1 - alpha**2 if self.as_sat else torch.tensor(self.sigma, dtype=torch.float64) ** 2


def levels_at(schedule: Schedule, timesteps: Sequence[float]) -> list[Level]:
    """The schedule's levels at falling timesteps, and the clean latent at the end."""
    alphas, sigmas = schedule.levels(timesteps)
    triples = zip(timesteps, alphas.tolist(), sigmas.tolist(), strict=True)
    return [*(Level(*triple) for triple in triples), Level(schedule.clean_timestep, 1.0, 0.0)]


def sampling_levels(
    schedule: Schedule,
    steps: int,
    *,
    spacing: Literal["trailing", "even", "ddim"] = "trailing",
    table: Literal["training", "sat"] = "training",
    shift: float = 1.0,
) -> list[Level]:
    """Levels for `steps` evaluations of the network, and the clean latent.

    Args:
        schedule: of the training.
        steps: levels but the last.
        spacing: of a table's timesteps. trailing: from the last one down, evenly, 0 left out (CogVideoX); even: both
            ends included (IDDPM, Open-Sora 1.1); ddim: at a whole stride from 0. A rectified flow is cut evenly in
            time, EDM along Karras' ramp.
        table: of the zero-terminal-SNR schedule: the one of the training, or SAT's, rescaled for these steps.
        shift: of a rectified flow's times; see `shift_fractions`.

    Raises:
        ValueError: the schedule has not so many timesteps, or no such table.
    """
    if steps < 1:
        raise ValueError(f"{steps} sampling steps; accepted: 1 or more")
    if isinstance(schedule, DiscreteSchedule):
        timesteps = _table_timesteps(schedule, steps, spacing)
        if table == "training":
            return levels_at(schedule, timesteps)
        if not isinstance(schedule, ZeroTerminalSNRSchedule):
            raise ValueError("SAT's sampling table exists for the zero-terminal-SNR schedule alone")
        if steps < 2:
            raise ValueError("1 sampling step with SAT's table, which needs two ends; accepted: 2 or more")
        pairs = zip([*timesteps, 0], [*schedule.sat_alphas(timesteps[::-1]).flip(0).tolist(), 1.0], strict=True)
        return [Level(t, a, (1 - a * a) ** 0.5, as_sat=True) for t, a in pairs]
    if isinstance(schedule, EDMSchedule):
        fractions = torch.linspace(1, 0, steps, dtype=torch.float64)
    else:
        fractions = shift_fractions(torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:-1], shift)
    return levels_at(schedule, schedule.timestep(fractions).tolist())


def _table_timesteps(schedule: DiscreteSchedule, steps: int, spacing: str) -> list[int]:
    match spacing:
        case "trailing":
            return trailing_timesteps(steps, schedule.timesteps)
        case "even":
            return space_timesteps(schedule.timesteps, str(steps))[::-1]
        case "ddim":
            return space_timesteps(schedule.timesteps, f"ddim{steps}")[::-1]
        case unknown:
            raise ValueError(f"spacing {unknown}; accepted: {', '.join(SPACINGS)}")

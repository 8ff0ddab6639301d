"""Noise schedules over a table of timesteps: how much signal and how much noise a timestep mixes.

A noisy latent is alpha(t) x0 + sigma(t) noise. Shape letter: B samples.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class Schedule(Protocol):
    """Signal and noise levels over timesteps, which are also what the network receives.

    A *fraction* is how far a timestep is on the way from clean (0) to noise (1); the *ratio* is sigma / alpha.
    """

    clean_timestep: float
    """The timestep with the least noise."""

    def alpha(self, timesteps_B: Tensor) -> Tensor:
        """Factor of the clean latents: [B], fp32."""
        ...

    def sigma(self, timesteps_B: Tensor) -> Tensor:
        """Factor of the noise: [B], fp32."""
        ...

    def levels(self, timesteps: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Factors of clean latents and noise at timesteps: alpha and sigma, fp64, for samplers."""
        ...

    def timestep(self, fractions_B: Tensor) -> Tensor:
        """Timesteps at fractions in [0, 1]: fp64 [B]."""
        ...

    def timestep_of_ratio(self, ratios_B: Tensor) -> Tensor:
        """Timesteps at ratios, 0 to infinity: fp64 [B]."""
        ...

    def ratio(self, fractions: Tensor) -> Tensor:
        """Ratios at fractions, fp64."""
        ...


def scaled_linear_alpha_bar(timesteps: int, first_beta: float = 0.00085, last_beta: float = 0.012) -> Tensor:
    """Squared signal levels of the scaled-linear schedule (latent diffusion, arXiv:2112.10752): [timesteps], fp64."""
    betas = torch.linspace(first_beta**0.5, last_beta**0.5, timesteps, dtype=torch.float64) ** 2
    return torch.cumprod(1.0 - betas, dim=0)


def linear_betas(timesteps: int) -> Tensor:
    """Noise added by each step of DDPM (arXiv:2006.11239), its 1000 steps stretched to `timesteps`: fp64."""
    stretch = 1000 / timesteps
    return torch.linspace(stretch * 1e-4, stretch * 0.02, timesteps, dtype=torch.float64)


def cosine_betas(timesteps: int, offset: float = 0.008, largest: float = 0.999) -> Tensor:
    """Noise added by each step of the cosine schedule (arXiv:2102.09672, equation 17): fp64."""
    time = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    alpha_bar = torch.cos((time + offset) / (1 + offset) * math.pi / 2) ** 2
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=largest)


def shift_alpha_bar(alpha_bar: Tensor, shift: float) -> Tensor:
    """Move a schedule towards more noise (shift > 1): the signal-to-noise ratio is divided by `shift`."""
    return alpha_bar / (shift + (1.0 - shift) * alpha_bar)


def zero_terminal_snr(alpha: Tensor) -> Tensor:
    """Rescale signal levels so that the last is 0 and the first stays (arXiv:2305.08891, algorithm 1)."""
    first, last = alpha[0].clone(), alpha[-1].clone()
    return (alpha - last) * (first / (first - last))


class DiscreteSchedule:
    """Levels with alpha^2 + sigma^2 = 1 at timesteps 0 (nearly clean) to N-1.

    Tabulated in fp64 and rounded to fp32 at the end: in fp32 the last bit of a root depends on the processor.
    """

    clean_timestep = 0.0

    def __init__(self, alpha: Tensor, sigma: Tensor):
        """
        Args:
            alpha: signal level of each timestep, fp64, falling.
            sigma: noise level of each, fp64.
        """
        self.timesteps = len(alpha)
        self.alpha_table, self.sigma_table = alpha.float(), sigma.float()
        self._levels = alpha, sigma
        # The angle of (alpha, sigma) grows over the fractions and stays finite where alpha is 0.
        ends = torch.tensor([0.0, math.pi / 2], dtype=torch.float64)
        self._angles = torch.cat((ends[:1], torch.atan2(sigma, alpha), ends[1:]))
        places = (torch.arange(self.timesteps, dtype=torch.float64) + 0.5) / self.timesteps
        self._fractions = torch.cat((torch.zeros(1), places, torch.ones(1)))

    def alpha(self, timesteps_B: Tensor) -> Tensor:
        """Factor of the clean latents: [B], fp32."""
        return self.alpha_table.to(timesteps_B.device)[timesteps_B.long()]

    def sigma(self, timesteps_B: Tensor) -> Tensor:
        """Factor of the noise: [B], fp32."""
        return self.sigma_table.to(timesteps_B.device)[timesteps_B.long()]

    def levels(self, timesteps: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Factors of clean latents and noise at timesteps: alpha and sigma, fp64."""
        index = torch.tensor(timesteps).long()
        return self._levels[0][index], self._levels[1][index]

    def timestep(self, fractions_B: Tensor) -> Tensor:
        """Timesteps at fractions; each timestep takes an equal part of [0, 1)."""
        return (fractions_B.double() * self.timesteps).floor().clamp(0, self.timesteps - 1)

    def timestep_of_ratio(self, ratios_B: Tensor) -> Tensor:
        """Timesteps whose levels are nearest to ratios."""
        return self.timestep(interpolate(torch.atan(ratios_B.double()), self._angles, self._fractions))

    def ratio(self, fractions: Tensor) -> Tensor:
        """Ratios at fractions: the angle of (alpha, sigma) is interpolated between the middles of timesteps' parts."""
        return torch.tan(interpolate(fractions.double(), self._fractions, self._angles))


def interpolate(x: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """Piecewise linear through the points (xs, ys), xs rising; beyond the ends as at the ends."""
    right = torch.searchsorted(xs, x).clamp(1, len(xs) - 1)
    x0, x1, y0, y1 = xs[right - 1], xs[right], ys[right - 1], ys[right]
    return y0 + (y1 - y0) * ((x - x0) / (x1 - x0)).clamp(0, 1)


class ZeroTerminalSNRSchedule(DiscreteSchedule):
    """CogVideoX's schedule: scaled-linear, shifted, rescaled to zero terminal signal-to-noise ratio.

    Timestep 0 is nearly clean, the last one pure noise.
    """

    def __init__(
        self,
        shift: float = 1.0,
        timesteps: int = 1000,
        *,
        shift_after_rescale: bool = False,
        keep_start: bool = False,
    ):
        """
        Args:
            shift: divides the signal-to-noise ratio.
            timesteps: length of the table.
            shift_after_rescale: shift what the rescale has made, not what it starts from.
            keep_start: lessen the first beta, so that shifting before the rescale leaves the first level about where
                it was.

        Raises:
            ValueError: `shift` is not positive or there are fewer than 2 timesteps.
        """
        _check_table(shift, timesteps)
        first_beta = 0.00085
        if keep_start and not shift_after_rescale:
            first_beta = first_beta / (shift + (1.0 - shift) * first_beta)
        alpha_bar = scaled_linear_alpha_bar(timesteps, first_beta)
        self.shift, self.shift_after_rescale = shift, shift_after_rescale
        self._alpha_bar_before_rescale = alpha_bar if shift_after_rescale else shift_alpha_bar(alpha_bar, shift)
        alpha = self._rescaled(self._alpha_bar_before_rescale).float().double()
        super().__init__(alpha, (1.0 - alpha**2).sqrt())

    def sat_alphas(self, timesteps: Sequence[int]) -> Tensor:
        """Signal levels as SAT computes them, in fp32: the rescale is applied to the chosen timesteps alone.

        For all timesteps that is the training table but for a last bit. SAT samples with the levels of the chosen
        steps, which differ from the training table's by up to 6e-3.

        Args:
            timesteps: rising.
        """
        return self._rescaled(self._alpha_bar_before_rescale[list(timesteps)].float())

    def _rescaled(self, alpha_bar: Tensor) -> Tensor:
        alpha = zero_terminal_snr(alpha_bar.sqrt())
        return shift_alpha_bar(alpha**2, self.shift).sqrt() if self.shift_after_rescale else alpha


class DDPMSchedule(DiscreteSchedule):
    """A schedule of betas, the last level of which still holds a little signal."""

    def __init__(self, betas: Tensor, shift: float = 1.0):
        """
        Args:
            betas: noise added by each step, fp64.
            shift: divides the signal-to-noise ratio.

        Raises:
            ValueError: `shift` is not positive or there are fewer than 2 timesteps.
        """
        _check_table(shift, len(betas))
        self.alpha_bar = shift_alpha_bar(torch.cumprod(1.0 - betas, dim=0), shift)
        super().__init__(self.alpha_bar.sqrt(), (1.0 - self.alpha_bar).sqrt())

    @classmethod
    def linear(cls, timesteps: int = 1000, shift: float = 1.0) -> "DDPMSchedule":
        """Schedule of linear betas: DDPM's and Open-Sora 1.1's."""
        return cls(linear_betas(timesteps), shift)

    @classmethod
    def scaled_linear(cls, timesteps: int = 1000, shift: float = 1.0) -> "DDPMSchedule":
        """Schedule of betas whose roots are linear: Stable Diffusion's."""
        alpha_bar = scaled_linear_alpha_bar(timesteps)
        return cls(1 - alpha_bar / torch.cat((alpha_bar.new_ones(1), alpha_bar[:-1])), shift)

    @classmethod
    def cosine(cls, timesteps: int = 1000, shift: float = 1.0) -> "DDPMSchedule":
        """Schedule of cosine betas: Improved DDPM's."""
        return cls(cosine_betas(timesteps), shift)


def _check_table(shift: float, timesteps: int) -> None:
    if shift <= 0:
        raise ValueError(f"noise shift {shift}; accepted: more than 0")
    if timesteps < 2:
        raise ValueError(f"{timesteps} timesteps; accepted: 2 or more")

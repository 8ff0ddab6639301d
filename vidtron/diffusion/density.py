"""Where training looks: densities over the noise levels, each through its inverse cumulative distribution.

A density is over fractions of the schedule (0 clean, 1 noise) or over the ratio sigma / alpha. Uniform numbers in,
so that plain, stratified and restricted draws are one thing. Shape letter: B samples.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from vidtron.diffusion.continuous import shift_fractions
from vidtron.diffusion.schedule import Schedule, interpolate


class Density(Protocol):
    """A distribution of noise levels."""

    @property
    def of_ratios(self) -> bool:
        """Over ratios; otherwise over fractions."""
        ...

    def inverse_cdf(self, quantiles: Tensor) -> Tensor:
        """Quantiles in [0, 1) -> fractions or ratios, fp64."""
        ...

    def cdf(self, values: Tensor) -> Tensor:
        """Fractions or ratios -> quantiles, fp64."""
        ...


def timesteps_at(
    density: Density, schedule: Schedule, quantiles_B: Tensor, part: tuple[float, float] = (0.0, 1.0)
) -> Tensor:
    """Timesteps at quantiles of a density, fp64 [B].

    Args:
        density: where training looks.
        schedule: what it looks at.
        quantiles_B: in [0, 1); of the density within `part`.
        part: from and to which fraction of the schedule, for models of which each expert learns a part. The density
            is cut off outside and scaled up inside.
    """
    quantiles_B = quantiles_B.double()
    if part == (0.0, 1.0):
        values = density.inverse_cdf(quantiles_B)
    else:
        fractions = torch.tensor(part, dtype=torch.float64)
        first, last = schedule.ratio(fractions) if density.of_ratios else fractions
        below, upto = density.cdf(first), density.cdf(last)
        values = density.inverse_cdf(below + quantiles_B * (upto - below))
        values = values.clamp(first, torch.nextafter(last, first))  # rounding must not leave the part
    return schedule.timestep_of_ratio(values) if density.of_ratios else schedule.timestep(values)


@dataclass(frozen=True)
class Uniform:
    """Uniform density: every fraction of the schedule is equally likely."""

    of_ratios = False

    def inverse_cdf(self, quantiles: Tensor) -> Tensor:
        """Fractions at quantiles: the quantiles themselves, fp64."""
        return quantiles.double()

    def cdf(self, values: Tensor) -> Tensor:
        """Quantiles of fractions: the fractions themselves, fp64."""
        return values.double()


@dataclass(frozen=True)
class LogNormal:
    """ln(sigma / alpha) is normal (EDM, arXiv:2206.00364, table 1)."""

    mean: float = -1.2
    std: float = 1.2
    of_ratios = True

    def inverse_cdf(self, quantiles: Tensor) -> Tensor:
        """Ratios at quantiles: exp(mean + std z), fp64."""
        return torch.exp(self.mean + self.std * torch.special.ndtri(quantiles.double()))

    def cdf(self, values: Tensor) -> Tensor:
        """Quantiles of ratios: the normal distribution's at their logarithms, fp64."""
        return torch.special.ndtr((values.double().log() - self.mean) / self.std)


@dataclass(frozen=True)
class LogitNormal:
    """The fraction's logit is normal (arXiv:2403.03206, equation 19); for a rectified flow that is `LogNormal`."""

    mean: float = 0.0
    std: float = 1.0
    of_ratios = False

    def inverse_cdf(self, quantiles: Tensor) -> Tensor:
        """Fractions at quantiles: sigmoid(mean + std z), fp64."""
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(quantiles.double()))

    def cdf(self, values: Tensor) -> Tensor:
        """Quantiles of fractions: the normal distribution's at their logits, fp64."""
        return torch.special.ndtr((torch.logit(values.double()) - self.mean) / self.std)


MODE_SCALES = (-1.0, 2 / (math.pi - 2))
"""Between these `Mode`'s inverse distribution rises."""


@dataclass(frozen=True)
class Mode:
    """More mass in the middle, some at both ends (arXiv:2403.03206, equation 20)."""

    scale: float = 1.29
    """0 is uniform; below 0 the ends get more."""
    of_ratios = False

    def __post_init__(self) -> None:
        least, greatest = MODE_SCALES
        if not least <= self.scale <= greatest:
            raise ValueError(f"scale {self.scale}; accepted: {least:g} to {greatest:.4f}")

    def inverse_cdf(self, quantiles: Tensor) -> Tensor:
        """u - scale (sin^2(pi u / 2) - u): the paper's function of 1 - u, which rises."""
        u = quantiles.double()
        return u - self.scale * (torch.sin(math.pi / 2 * u) ** 2 - u)

    def cdf(self, values: Tensor) -> Tensor:
        """Quantiles of fractions, by bisection since there is no closed form: fp64."""
        values = values.double()
        low, high = torch.zeros_like(values), torch.ones_like(values)
        for _ in range(60):
            middle = (low + high) / 2
            above = self.inverse_cdf(middle) > values
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return (low + high) / 2


class TabulatedDensity:
    """A probability for each of N equal parts of the schedule."""

    of_ratios = False

    def __init__(self, probabilities: Tensor):
        """
        Args:
            probabilities: [N], positive; scaled to a sum of 1.
        """
        total = torch.cumsum(probabilities.double(), dim=0)
        self.probabilities = probabilities.double() / total[-1]
        self._quantiles = torch.cat((torch.zeros(1), total / total[-1]))
        self._fractions = torch.linspace(0, 1, len(self._quantiles), dtype=torch.float64)

    def inverse_cdf(self, quantiles: Tensor) -> Tensor:
        """Fractions at quantiles, linear within each part: fp64."""
        return interpolate(quantiles.double(), self._quantiles, self._fractions)

    def cdf(self, values: Tensor) -> Tensor:
        """Quantiles of fractions, linear within each part: fp64."""
        return interpolate(values.double(), self._fractions, self._quantiles)


@dataclass(frozen=True)
class Shifted:
    """Another density with sigma / alpha multiplied by `shift`, as for a rectified flow; see `shift_fractions`."""

    density: Density
    shift: float

    @property
    def of_ratios(self) -> bool:
        """Whether the density is over ratios, as the unshifted one is."""
        return self.density.of_ratios

    def inverse_cdf(self, quantiles: Tensor) -> Tensor:
        """Values of the unshifted density at quantiles, shifted: fp64."""
        return self._moved(self.density.inverse_cdf(quantiles), self.shift)

    def cdf(self, values: Tensor) -> Tensor:
        """Quantiles of the unshifted density, at the values before the shift: fp64."""
        return self.density.cdf(self._moved(values.double(), 1 / self.shift))

    def _moved(self, values: Tensor, shift: float) -> Tensor:
        # Rounding may leave [0, 1], where the other density is not defined.
        return shift * values if self.of_ratios else shift_fractions(values, shift).clamp(0, 1)


def speed_probabilities(sigma: Tensor) -> Tensor:
    """SpeeD's probabilities (arXiv:2405.17403, as Open-Sora 1.1's `iddpm-speed` has them): [N], sum 1, fp64.

    Timesteps where the noise level hardly grows any more are drawn five times less often. Upstream takes fp32 levels;
    the last bit of such a level, which the processor chooses, is 6 % of a weight where the step is steep.

    Args:
        sigma: noise level of each timestep, fp64.
    """
    (slope,) = torch.gradient(sigma.double())
    weights = torch.tanh(1e6 * (slope - 1e-4)) + 1.5
    return weights / weights.sum()


def speed_turn(sigma: Tensor) -> int:
    """The timestep about which Open-Sora mirrors the second half of each batch: the first of slope below 5e-5, + 1.

    Args:
        sigma: noise level of each timestep, fp64: on 1000 linear ones the slope before the turn is 3e-8 too steep,
            less than a last bit of fp32.
    """
    (slope,) = torch.gradient(sigma.double())
    return int((slope < 5e-5).int().argmax()) + 1


def mirrored(timesteps_B: Tensor, turn: int) -> Tensor:
    """The other timestep of each of SpeeD's pairs: [B]."""
    return (timesteps_B - turn).abs()


def speed_density(sigma: Tensor) -> TabulatedDensity:
    """Density of the timesteps in Open-Sora's `iddpm-speed`, drawn and mirrored ones together."""
    probabilities, turn = speed_probabilities(sigma), speed_turn(sigma)
    others = mirrored(torch.arange(len(sigma)), turn)
    both = probabilities.index_add(0, others, probabilities)
    return TabulatedDensity(both / 2)

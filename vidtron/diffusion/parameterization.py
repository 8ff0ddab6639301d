"""What the network's output means, for a noisy latent alpha x0 + sigma noise.

`alpha` and `sigma` broadcast against the latents. Shape letters: B samples, `...` the latent's other axes.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


def per_sample(level_B: Tensor, latents: Tensor) -> Tensor:
    """[B] -> [B, 1, 1, ...], as wide as `latents`."""
    return level_B.view(-1, *([1] * (latents.dim() - 1)))


def add_noise(x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The noisy latent alpha x0 + sigma noise."""
    return alpha * x0 + sigma * noise


class Parameterization(Protocol):
    """A linear relation between noisy latent, network output and clean latent."""

    def target(self, x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The network output that would be right."""
        ...

    def x0(self, noisy: Tensor, output: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The clean latent that the network's output stands for."""
        ...

    def noise(self, noisy: Tensor, output: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The noise that the network's output stands for."""
        ...

    def input_scale(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Factor on the noisy latent before it enters the network (EDM's c_in)."""
        ...

    def x0_error(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Error of the clean latent for an error of 1 in the output, without its sign (EDM's c_out)."""
        ...


def convert(
    output: Tensor, noisy: Tensor, alpha: Tensor, sigma: Tensor, source: Parameterization, to: Parameterization
) -> Tensor:
    """Output that a network of parameterization `to` would give in place of `output` of parameterization `source`."""
    x0, noise = source.x0(noisy, output, alpha, sigma), source.noise(noisy, output, alpha, sigma)
    return to.target(x0, noise, alpha, sigma)


class _PlainInput:
    """The network sees the noisy latent as it is."""

    def input_scale(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Factor on the noisy latent: 1."""
        return torch.ones_like(alpha)


@dataclass(frozen=True)
class Epsilon(_PlainInput):
    """The noise (DDPM, arXiv:2006.11239). Says nothing of the clean latent where alpha is 0."""

    def target(self, x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The right output: the noise."""
        return noise

    def x0(self, noisy: Tensor, output: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The clean latent: (noisy - sigma output) / alpha."""
        return (noisy - sigma * output) / alpha

    def noise(self, noisy: Tensor, output: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The noise: the output."""
        return output

    def x0_error(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Error of the clean latent per error of the output: sigma / alpha."""
        return sigma / alpha


@dataclass(frozen=True)
class CleanLatent(_PlainInput):
    """The clean latent itself (x0 prediction). Says nothing of the noise where sigma is 0."""

    def target(self, x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The right output: the clean latent."""
        return x0

    def x0(self, noisy: Tensor, output: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The clean latent: the output."""
        return output

    def noise(self, noisy: Tensor, output: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The noise: (noisy - alpha output) / sigma."""
        return (noisy - alpha * output) / sigma

    def x0_error(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Error of the clean latent per error of the output: 1."""
        return torch.ones_like(alpha)


@dataclass(frozen=True)
class Velocity(_PlainInput):
    """v = alpha noise - sigma x0 (progressive distillation, arXiv:2202.00512), for alpha^2 + sigma^2 = 1."""

    def target(self, x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The right output: alpha noise - sigma x0."""
        return alpha * noise - sigma * x0

    def x0(self, noisy: Tensor, output: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The clean latent: alpha noisy - sigma output."""
        return alpha * noisy - sigma * output

    def noise(self, noisy: Tensor, output: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The noise: sigma noisy + alpha output."""
        return sigma * noisy + alpha * output

    def x0_error(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Error of the clean latent per error of the output: sigma."""
        return sigma


@dataclass(frozen=True)
class FlowVelocity(_PlainInput):
    """noise - x0 (rectified flow, arXiv:2209.03003), or its negative, as Open-Sora 1.2's networks say it.

    On any schedule whose levels are not both 0.
    """

    to_data: bool = False
    """The output is x0 - noise."""

    def target(self, x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The right output: noise - x0."""
        return x0 - noise if self.to_data else noise - x0

    def x0(self, noisy: Tensor, output: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The clean latent: (noisy - sigma velocity) / (alpha + sigma)."""
        return (noisy - sigma * self._velocity(output)) / (alpha + sigma)

    def noise(self, noisy: Tensor, output: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The noise: (noisy + alpha velocity) / (alpha + sigma)."""
        return (noisy + alpha * self._velocity(output)) / (alpha + sigma)

    def x0_error(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Error of the clean latent per error of the output: sigma / (alpha + sigma)."""
        return sigma / (alpha + sigma)

    def _velocity(self, output: Tensor) -> Tensor:
        return -output if self.to_data else output


@dataclass(frozen=True)
class EDM:
    """EDM's preconditioning (arXiv:2206.00364, table 1), for any schedule: network input and target have variance 1.

    With D = sigma^2 + alpha^2 data_std^2: c_skip = alpha data_std^2 / D, c_out = sigma data_std / sqrt(D),
    c_in = 1 / sqrt(D). With alpha^2 + sigma^2 = 1 and data_std 1 the output is the negative velocity.
    """

    data_std: float = 1.0
    """Standard deviation of the latents."""

    def target(self, x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The right output: (x0 - c_skip noisy) / c_out, without the cancellation."""
        return (sigma / self.data_std * x0 - alpha * self.data_std * noise) * self.input_scale(alpha, sigma)

    def x0(self, noisy: Tensor, output: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The clean latent: c_skip noisy + c_out output."""
        c_in = self.input_scale(alpha, sigma)
        return alpha * (self.data_std * c_in) ** 2 * noisy + sigma * self.data_std * c_in * output

    def noise(self, noisy: Tensor, output: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The noise: (noisy - alpha x0) / sigma, without the cancellation."""
        c_in = self.input_scale(alpha, sigma)
        return sigma * c_in**2 * noisy - alpha * self.data_std * c_in * output

    def input_scale(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Factor on the noisy latent: c_in."""
        return (sigma**2 + (alpha * self.data_std) ** 2).rsqrt()

    def x0_error(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Error of the clean latent per error of the output: c_out."""
        return sigma * self.data_std * self.input_scale(alpha, sigma)

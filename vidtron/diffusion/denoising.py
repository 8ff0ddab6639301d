"""A network and its parameterization as one function from a noisy latent to the clean one."""

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from vidtron.diffusion.levels import Level
from vidtron.diffusion.parameterization import Parameterization
from vidtron.diffusion.variance import split_variance

Network = Callable[..., Tensor]
"""(noisy latents, timestep) -> the network's output, guidance and conditions included. Where frames are kept it is
called with a third argument, their mask: True where a frame is denoised."""


class Denoised(NamedTuple):
    """Output of a denoiser: clean latents and, if the network learns it, their variance."""

    x0: Tensor
    variance: Tensor | None = None
    """Learned variance as the network says it; see `ReversePosterior.learned_log_variance`."""


class Denoise(Protocol):
    """A denoiser as samplers call it."""

    def __call__(self, noisy: Tensor, level: Level, frame_mask: Tensor | None = None) -> Denoised:
        """The clean latents that the model sees in `noisy`."""
        ...


class Denoiser:
    """A network with its parameterization."""

    def __init__(
        self,
        network: Network,
        parameterization: Parameterization,
        *,
        variance: Literal["none", "learned", "bound-only", "ignored"] = "none",
        snap_to: Tensor | None = None,
    ):
        """
        Args:
            network: see `Network`.
            parameterization: what its output means.
            variance: whether the output has a second half, as in `Objective`.
            snap_to: read the output at the nearest of these signal levels, fp32, as SAT does: it samples with other
                levels than it trains with.
        """
        self.network, self.parameterization = network, parameterization
        self.variance, self.snap_to = variance, snap_to

    def __call__(self, noisy: Tensor, level: Level, frame_mask: Tensor | None = None) -> Denoised:
        """The clean latents, and what the network says of the variance."""
        alpha, sigma = self._read_at(level)
        scale = self.parameterization.input_scale(alpha, sigma)
        if frame_mask is None:
            output = self.network(noisy * scale, level.timestep)
        else:
            clean = self.parameterization.input_scale(torch.ones_like(alpha), torch.zeros_like(sigma))
            scales = torch.where(frame_mask, scale.item(), clean.item()).to(noisy)
            output = self.network(noisy * scales, level.timestep, frame_mask)
        variance = None
        if self.variance != "none":
            output, variance = split_variance(output)
        x0 = self.parameterization.x0(noisy, output, alpha, sigma)
        return Denoised(x0, None if self.variance == "ignored" else variance)

    def _read_at(self, level: Level) -> tuple[Tensor, Tensor]:
        if self.snap_to is None:
            alpha, variance = level.numbers()
            return alpha, variance**0.5
        alpha = self.snap_to[(self.snap_to - level.alpha).abs().argmin()]
        return alpha, (1 - alpha**2) ** 0.5

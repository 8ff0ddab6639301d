"""Noise schedules without a table: rectified flow and EDM.

Shape letter: B samples.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

TIMESTEPS = 1000
"""Networks receive times of about 0 to this, the range their sinusoids are made for."""


def shift_fractions(fractions: Tensor, shift: float) -> Tensor:
    """Times of a rectified flow, in [0, 1], moved towards noise: sigma / alpha is multiplied by `shift`.

    shift u / (1 + (shift - 1) u) (arXiv:2403.03206, equation 23; Open-Sora 1.2).
    """
    return shift * fractions / (1 + (shift - 1) * fractions)


def resolution_shift(height: int, width: int, frames: int, scale: float = 1.0) -> float:
    """Shift of Open-Sora 1.2 for a video size: sqrt(height width / 512^2) sqrt(latent frames) `scale`.

    Args:
        height: pixels.
        width: pixels.
        frames: pixel frames. Latent frames are 5 for each 17 (its autoencoder's ratio), 1 for an image.
        scale: a further factor.

    Raises:
        ValueError: a video of fewer than 17 frames, which gives no shift.
    """
    latent_frames = 1 if frames == 1 else frames // 17 * 5
    if latent_frames < 1:
        raise ValueError(f"{frames} frames: the shift by resolution takes 1 frame or at least 17")
    return math.sqrt(height * width / 512**2) * math.sqrt(latent_frames) * scale


class FlowSchedule:
    """Rectified flow (arXiv:2209.03003): a straight line from the data at timestep 0 to noise at timestep 1000."""

    clean_timestep = 0.0

    def alpha(self, timesteps_B: Tensor) -> Tensor:
        """Factor of the clean latents: [B], fp32."""
        return (1 - timesteps_B.double() / TIMESTEPS).float()

    def sigma(self, timesteps_B: Tensor) -> Tensor:
        """Factor of the noise: [B], fp32."""
        return (timesteps_B.double() / TIMESTEPS).float()

    def levels(self, timesteps: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Factors of clean latents and noise at timesteps: alpha and sigma, fp64."""
        sigma = torch.tensor(timesteps, dtype=torch.float64) / TIMESTEPS
        return 1 - sigma, sigma

    def timestep(self, fractions_B: Tensor) -> Tensor:
        """Timesteps at fractions: the fraction times 1000, fp64 [B]."""
        return fractions_B.double() * TIMESTEPS

    def timestep_of_ratio(self, ratios_B: Tensor) -> Tensor:
        """Timesteps at ratios, by sigma = ratio / (1 + ratio): fp64 [B]."""
        return self.timestep(1 - 1 / (1 + ratios_B.double()))

    def ratio(self, fractions: Tensor) -> Tensor:
        """Ratios at fractions: sigma / (1 - sigma), fp64."""
        return fractions.double() / (1 - fractions.double())


class EDMSchedule:
    """EDM (arXiv:2206.00364): alpha is 1, sigma goes from `sigma_min` to `sigma_max`.

    The timestep is EDM's c_noise = ln(sigma) / 4, times 1000. A fraction is a place on Karras' ramp, even in
    sigma^(1/rho) (equation 5). The log-normal training density may leave [sigma_min, sigma_max].
    """

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0):
        """
        Raises:
            ValueError: not 0 < sigma_min < sigma_max, or rho is not positive.
        """
        if not 0 < sigma_min < sigma_max:
            raise ValueError(f"sigma {sigma_min} to {sigma_max}; accepted: 0 < least < greatest")
        if rho <= 0:
            raise ValueError(f"rho {rho}; accepted: more than 0")
        self.sigma_min, self.sigma_max, self.rho = sigma_min, sigma_max, rho
        self.clean_timestep = math.log(sigma_min) * TIMESTEPS / 4

    def alpha(self, timesteps_B: Tensor) -> Tensor:
        """Factor of the clean latents, 1: [B], fp32."""
        return torch.ones_like(timesteps_B, dtype=torch.float32)

    def sigma(self, timesteps_B: Tensor) -> Tensor:
        """Standard deviation of the noise: [B], fp32."""
        return torch.exp(timesteps_B.double() * 4 / TIMESTEPS).float()

    def levels(self, timesteps: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Factors of clean latents and noise at timesteps: alpha and sigma, fp64."""
        sigma = torch.exp(torch.tensor(timesteps, dtype=torch.float64) * 4 / TIMESTEPS)
        return torch.ones_like(sigma), sigma

    def timestep(self, fractions_B: Tensor) -> Tensor:
        """Timesteps at fractions, which are places on Karras' ramp: fp64 [B]."""
        return self.timestep_of_ratio(self.ratio(fractions_B))

    def timestep_of_ratio(self, ratios_B: Tensor) -> Tensor:
        """Timesteps at ratios: 250 ln(sigma), fp64 [B]."""
        return ratios_B.double().log() * TIMESTEPS / 4

    def ratio(self, fractions: Tensor) -> Tensor:
        """sigma at a place on Karras' ramp."""
        least, greatest = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return (least + fractions.double() * (greatest - least)) ** self.rho

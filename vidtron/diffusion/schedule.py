"""Noise schedules: how much signal and how much noise a timestep mixes.

A noisy latent is alpha(t) x0 + sigma(t) noise. Shape letter: B samples.
"""

import torch
from torch import Tensor


def scaled_linear_alpha_bar(timesteps: int, first_beta: float = 0.00085, last_beta: float = 0.012) -> Tensor:
    """Squared signal levels of the scaled-linear schedule (latent diffusion, arXiv:2112.10752): [timesteps], fp64."""
    betas = torch.linspace(first_beta**0.5, last_beta**0.5, timesteps, dtype=torch.float64) ** 2
    return torch.cumprod(1.0 - betas, dim=0)


def shift_alpha_bar(alpha_bar: Tensor, shift: float) -> Tensor:
    """Move a schedule towards more noise (shift > 1): the signal-to-noise ratio is divided by `shift`."""
    return alpha_bar / (shift + (1.0 - shift) * alpha_bar)


def zero_terminal_snr(alpha: Tensor) -> Tensor:
    """Rescale signal levels so that the last is 0 and the first stays (arXiv:2305.08891, algorithm 1)."""
    first, last = alpha[0].clone(), alpha[-1].clone()
    return (alpha - last) * (first / (first - last))


class ZeroTerminalSNRSchedule:
    """CogVideoX's schedule: scaled-linear, shifted, rescaled to zero terminal signal-to-noise ratio.

    Timestep 0 is nearly clean, the last one pure noise. Levels are computed in fp64 and tabulated in fp32: in fp32 the
    last bit of a root depends on the processor.
    """

    def __init__(self, shift: float = 1.0, timesteps: int = 1000):
        """
        Raises:
            ValueError: `shift` is not positive or there are fewer than 2 timesteps.
        """
        if shift <= 0:
            raise ValueError(f"noise shift {shift}; accepted: more than 0")
        if timesteps < 2:
            raise ValueError(f"{timesteps} timesteps; accepted: 2 or more")
        alpha = shift_alpha_bar(scaled_linear_alpha_bar(timesteps), shift).sqrt()
        self.timesteps = timesteps
        self.alpha_table = zero_terminal_snr(alpha).to(torch.float32)

    def alpha(self, timesteps_B: Tensor) -> Tensor:
        """Factor of the clean latents: [B], fp32."""
        return self.alpha_table.to(timesteps_B.device)[timesteps_B.long()]

    def sigma(self, timesteps_B: Tensor) -> Tensor:
        """Factor of the noise: [B], fp32."""
        return (1.0 - self.alpha(timesteps_B).double() ** 2).sqrt().float()

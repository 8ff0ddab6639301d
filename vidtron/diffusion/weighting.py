"""What an error counts for at each noise level.

Every weighting but `Constant` is written for the error of the clean latent and carried over to the error of the
network's output, so that it means the same under every parameterization. Shape letter: B samples.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Weighting(Protocol):
    """Weights of the loss over noise levels."""

    def __call__(self, alpha_B: Tensor, sigma_B: Tensor, x0_error_B: Tensor, power: int) -> Tensor:
        """Weight of |output - target|^power: [B].

        Args:
            alpha_B: signal level.
            sigma_B: noise level.
            x0_error_B: error of the clean latent for an error of 1 in the output.
            power: 2 or 1.
        """
        ...


@dataclass(frozen=True)
class Constant:
    """Weight 1, on the error of the output."""

    def __call__(self, alpha_B: Tensor, sigma_B: Tensor, x0_error_B: Tensor, power: int) -> Tensor:
        """Weight 1 of |output - target|^power: [B]."""
        return torch.ones_like(alpha_B)


class _OnCleanLatent:
    """A weight of the clean latent's error."""

    def x0_weight(self, alpha_B: Tensor, sigma_B: Tensor) -> Tensor:
        """Weight of |x0 error|^power."""
        raise NotImplementedError

    def __call__(self, alpha_B: Tensor, sigma_B: Tensor, x0_error_B: Tensor, power: int) -> Tensor:
        """Carried over to the output's error; in fp64, where the two factors may be far apart."""
        weight = self.x0_weight(alpha_B.double(), sigma_B.double())
        return (weight * x0_error_B.double() ** power).float()


def _snr(alpha: Tensor, sigma: Tensor) -> Tensor:
    return (alpha / sigma) ** 2


@dataclass(frozen=True)
class MinSNR(_OnCleanLatent):
    """min(SNR, gamma) (arXiv:2303.09556); for epsilon min(1, gamma / SNR), for velocity min(SNR, gamma)/(SNR + 1)."""

    gamma: float = 5.0

    def x0_weight(self, alpha_B: Tensor, sigma_B: Tensor) -> Tensor:
        """Weight of |x0 error|^power: min(SNR, gamma)."""
        return _snr(alpha_B, sigma_B).clamp(max=self.gamma)


@dataclass(frozen=True)
class SoftMinSNR(_OnCleanLatent):
    """SNR gamma / (SNR + gamma): min-SNR without the corner (arXiv:2401.11605, appendix B)."""

    gamma: float = 5.0

    def x0_weight(self, alpha_B: Tensor, sigma_B: Tensor) -> Tensor:
        """Weight of |x0 error|^power: 1 / (1 / SNR + 1 / gamma), finite where the SNR is infinite."""
        return 1 / (1 / _snr(alpha_B, sigma_B) + 1 / self.gamma)


@dataclass(frozen=True)
class EDMWeighting(_OnCleanLatent):
    """1 / c_out^2 of EDM's preconditioning (arXiv:2206.00364, table 1): with `EDM` outputs the weight is 1."""

    data_std: float = 1.0

    def x0_weight(self, alpha_B: Tensor, sigma_B: Tensor) -> Tensor:
        """Weight of |x0 error|^power: (sigma^2 + alpha^2 data_std^2) / (sigma data_std)^2."""
        return (sigma_B**2 + (alpha_B * self.data_std) ** 2) / (sigma_B * self.data_std) ** 2


@dataclass(frozen=True)
class SATClamp(_OnCleanLatent):
    """min(1 / sigma^2, bound): what SAT's `min_snr_value` does, under velocity a weight of min(1, bound sigma^2)."""

    bound: float = float("inf")

    def x0_weight(self, alpha_B: Tensor, sigma_B: Tensor) -> Tensor:
        """Weight of |x0 error|^power: min(1 / sigma^2, bound)."""
        return (1 / sigma_B**2).clamp(max=self.bound)


@dataclass(frozen=True)
class P2:
    """1 / (1 + SNR) on the output's error (arXiv:2204.00227 with k = gamma = 1; Open-Sora 1.1's `iddpm-speed`)."""

    def __call__(self, alpha_B: Tensor, sigma_B: Tensor, x0_error_B: Tensor, power: int) -> Tensor:
        """Weight of |output - target|^power: sigma^2 / (alpha^2 + sigma^2)."""
        return sigma_B**2 / (alpha_B**2 + sigma_B**2)

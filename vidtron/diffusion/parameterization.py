"""What the network's output means, for a noisy latent alpha x0 + sigma noise.

`alpha` and `sigma` broadcast against the latents. Shape letters: B samples, `...` the latent's other axes.
"""

from dataclasses import dataclass

from torch import Tensor


def per_sample(level_B: Tensor, latents: Tensor) -> Tensor:
    """[B] -> [B, 1, 1, ...], as wide as `latents`."""
    return level_B.view(-1, *([1] * (latents.dim() - 1)))


def add_noise(x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The noisy latent."""
    return alpha * x0 + sigma * noise


@dataclass(frozen=True)
class Velocity:
    """v = alpha noise - sigma x0 (progressive distillation, arXiv:2202.00512), for alpha^2 + sigma^2 = 1."""

    def target(self, x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """What the network should say."""
        return alpha * noise - sigma * x0

    def x0(self, noisy: Tensor, output: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The clean latent that the network's output stands for."""
        return alpha * noisy - sigma * output

    def noise(self, noisy: Tensor, output: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The noise that the network's output stands for."""
        return sigma * noisy + alpha * output

"""The reverse process's variance, fixed or learned by the network, and its variational bound (IDDPM).

arXiv:2102.09672. Shape letters: B samples, T latent frames, C latent channels, H, W latent rows and columns; the
channels are the third axis from the end.
"""

import math

import torch
from torch import Tensor

from vidtron.diffusion.loss import sample_mean
from vidtron.diffusion.parameterization import per_sample

CHANNEL_AXIS = -3


def split_variance(output: Tensor) -> tuple[Tensor, Tensor]:
    """A network's output of twice the latent's channels -> (what it says of the latent, what of the variance)."""
    mean, variance = output.chunk(2, dim=CHANNEL_AXIS)
    return mean, variance


class ReversePosterior:
    """q(x_{t-1} | x_t, x0) for each timestep of a schedule with alpha^2 + sigma^2 = 1, or of a part of one.

    Tables are fp32 [N], and made of betas and squared signal levels that are rounded to fp32, as in IDDPM's code and
    Open-Sora: at the first few timesteps that moves them in the fourth digit, and with them the bound. The product in
    between is fp64, as torch's of fp32 is on a CPU. What comes before the first timestep is the clean latent.
    """

    def __init__(self, alpha_bar: Tensor):
        """
        Args:
            alpha_bar: squared signal levels, fp64, falling.
        """
        self.beta = (1 - alpha_bar / _one_before(alpha_bar)).float()
        alpha = 1 - self.beta
        self.alpha_bar = torch.cumprod(alpha.double(), dim=0).float()
        before = _one_before(self.alpha_bar)
        self.variance = self.beta * (1 - before) / (1 - self.alpha_bar)
        self.log_variance = self.variance.log()
        self.log_variance[0] = self.log_variance[min(1, len(alpha_bar) - 1)]  # the first is 0 and has no logarithm
        self.x0_factor = self.beta * before.sqrt() / (1 - self.alpha_bar)
        self.noisy_factor = (1 - before) * alpha.sqrt() / (1 - self.alpha_bar)

    def mean(self, x0: Tensor, noisy: Tensor, index_B: Tensor) -> Tensor:
        """Mean of x_{t-1} given x0 and the noisy latents."""
        return self._at(self.x0_factor, index_B, x0) * x0 + self._at(self.noisy_factor, index_B, x0) * noisy

    def true_log_variance(self, index_B: Tensor, latents: Tensor) -> Tensor:
        """ln of the posterior's variance; at the first timestep that of the second."""
        return self._at(self.log_variance, index_B, latents)

    def learned_log_variance(self, values: Tensor, index_B: Tensor) -> Tensor:
        """ln of the variance a network stands for with `values`: -1 the posterior's, 1 beta's, between them a line."""
        share = (values + 1) / 2
        greatest = self._at(self.beta.log(), index_B, values)
        return share * greatest + (1 - share) * self.true_log_variance(index_B, values)

    @staticmethod
    def _at(table: Tensor, index_B: Tensor, latents: Tensor) -> Tensor:
        values_B = table.to(device=index_B.device)[index_B.long()]
        return per_sample(values_B.to(latents.dtype), latents)


def _one_before(alpha_bar: Tensor) -> Tensor:
    return torch.cat((alpha_bar.new_ones(1), alpha_bar[:-1]))


def variational_bound(
    posterior: ReversePosterior,
    x0: Tensor,
    noisy: Tensor,
    predicted_x0: Tensor,
    variance_values: Tensor,
    timesteps_B: Tensor,
    mask: Tensor | None = None,
) -> Tensor:
    """Bits per element of one term of the variational bound: [B].

    Args:
        posterior: of the training schedule.
        x0: clean latents.
        noisy: noisy latents at `timesteps_B`.
        predicted_x0: the network's clean latents; detach them if the bound is to teach the variance alone.
        variance_values: the network's second half.
        timesteps_B: at 0 the likelihood of x0 itself is taken, discretised to 1/127.5 as if it were pixels.
        mask: as in `sample_mean`.
    """
    mean = posterior.mean(predicted_x0, noisy, timesteps_B)
    log_variance = posterior.learned_log_variance(variance_values, timesteps_B)
    true_mean = posterior.mean(x0, noisy, timesteps_B)
    kl = normal_kl(true_mean, posterior.true_log_variance(timesteps_B, x0), mean, log_variance)
    kl_B = sample_mean(kl, mask)
    likelihood_B = sample_mean(-discretised_log_likelihood(x0, mean, 0.5 * log_variance), mask)
    return torch.where(timesteps_B == 0, likelihood_B, kl_B) / math.log(2.0)


def normal_kl(mean1: Tensor, log_variance1: Tensor, mean2: Tensor, log_variance2: Tensor) -> Tensor:
    """KL divergence of two normal distributions, in nats, per element."""
    return 0.5 * (
        log_variance2
        - log_variance1
        - 1.0
        + torch.exp(log_variance1 - log_variance2)
        + (mean1 - mean2) ** 2 * torch.exp(-log_variance2)
    )


def discretised_log_likelihood(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """ln of the mass that a normal distribution puts on the bin of width 2/255 around `x`, per element.

    The outermost bins, beyond +-0.999, reach to infinity. The distribution function is the tanh approximation that
    DDPM's code uses.
    """
    centred, inverse_std = x - mean, torch.exp(-log_std)
    upper = _normal_cdf((centred + 1.0 / 255.0) * inverse_std)
    lower = _normal_cdf((centred - 1.0 / 255.0) * inverse_std)
    mass = torch.where(x < -0.999, upper, torch.where(x > 0.999, 1.0 - lower, upper - lower))
    return mass.clamp(min=1e-12).log()


def _normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))

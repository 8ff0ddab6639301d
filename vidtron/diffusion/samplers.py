"""From noise to latents by repeated denoising.

A sampler is called with a denoiser and noise and knows nothing else. Shape letters: B samples, `...` the latent's
axes.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from vidtron.diffusion.parameterization import Velocity
from vidtron.diffusion.schedule import ZeroTerminalSNRSchedule

Network = Callable[[Tensor, int], Tensor]
"""(noisy latents, training timestep) -> the network's output, guidance included."""


def trailing_timesteps(steps: int, timesteps: int = 1000) -> list[int]:
    """`steps` training timesteps from the last one down, evenly spaced, 0 left out (arXiv:2305.08891, section 3.3).

    Raises:
        ValueError: more steps than timesteps, or none.
    """
    if not 1 <= steps < timesteps:
        raise ValueError(f"{steps} sampling steps; accepted: 1 to {timesteps - 1}")
    return [int(t) for t in torch.linspace(timesteps - 1, 0, steps + 1, dtype=torch.float64)[:-1].tolist()]


def ddim(
    network: Network,
    noise: Tensor,
    schedule: ZeroTerminalSNRSchedule,
    steps: int,
    progress: Callable[[list[int]], list[int]] = lambda steps: steps,
) -> Tensor:
    """Deterministic DDIM (arXiv:2010.02502) for velocity prediction; the last step returns the clean latents.

    Args:
        network: see `Network`.
        noise: standard normal, [B, ...].
        schedule: the training schedule.
        steps: evaluations of the network.
        progress: wraps the list of steps, for a progress bar.
    """
    parameterization = Velocity()
    timesteps = trailing_timesteps(steps, schedule.timesteps)
    alphas = [float(schedule.alpha_table[t]) for t in timesteps] + [1.0]
    x = noise
    for i in progress(list(range(steps))):
        alpha, sigma = torch.tensor(alphas[i]), torch.tensor(1.0 - alphas[i] ** 2).sqrt()
        alpha_next, sigma_next = alphas[i + 1], (1.0 - alphas[i + 1] ** 2) ** 0.5
        output = network(x, timesteps[i])
        x0 = parameterization.x0(x, output, alpha, sigma)
        x = alpha_next * x0 + sigma_next * parameterization.noise(x, output, alpha, sigma)
    return x

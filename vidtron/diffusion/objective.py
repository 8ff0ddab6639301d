"""One training objective put together: schedule, meaning of the output, weights, loss.

Shape letters: B samples, `...` the latent's other axes.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from torch import Tensor

from vidtron.diffusion.loss import mean_absolute_error, mean_squared_error
from vidtron.diffusion.parameterization import Parameterization, Velocity, add_noise, per_sample
from vidtron.diffusion.schedule import DDPMSchedule, Schedule, ZeroTerminalSNRSchedule
from vidtron.diffusion.variance import CHANNEL_AXIS, ReversePosterior, split_variance, variational_bound
from vidtron.diffusion.weighting import Constant, Weighting


@dataclass(frozen=True)
class Objective:
    """Training objective of the network; by default CogVideoX 5B's.

    Frame masks are True where a frame is learned, and broadcast against the latents. A frame that is kept is given
    to the network as at the schedule's cleanest timestep, and has no part in the loss (Open-Sora).
    """

    schedule: Schedule = field(default_factory=ZeroTerminalSNRSchedule)
    parameterization: Parameterization = field(default_factory=Velocity)
    weighting: Weighting = field(default_factory=Constant)
    loss_type: Literal["l2", "l1"] = "l2"
    variance: Literal["none", "learned", "bound-only", "ignored"] = "none"
    """The network's output has the latent's channels (none) or twice as many, the second half standing for the
    reverse process's variance: learned through the variational bound beside the loss, or through the bound alone
    (which then teaches the first half too), or ignored."""

    def __post_init__(self) -> None:
        if self.variance in ("learned", "bound-only") and not isinstance(self.schedule, DDPMSchedule):
            raise ValueError("learned variance needs a DDPM schedule")

    def noisy(self, x0: Tensor, noise: Tensor, timesteps_B: Tensor, frame_mask: Tensor | None = None) -> Tensor:
        """Noisy latents at the timesteps."""
        noisy = add_noise(x0, noise, *self._levels(timesteps_B, x0))
        if frame_mask is None:
            return noisy
        kept = add_noise(x0, noise, *self._kept_levels(timesteps_B, x0))
        return noisy.where(frame_mask, kept)

    def network_input(self, noisy: Tensor, timesteps_B: Tensor, frame_mask: Tensor | None = None) -> Tensor:
        """The noisy latents as the network receives them."""
        scale = self.parameterization.input_scale(*self._levels(timesteps_B, noisy))
        if frame_mask is not None:
            scale = scale.where(frame_mask, self.parameterization.input_scale(*self._kept_levels(timesteps_B, noisy)))
        return noisy * scale

    def losses(
        self, output: Tensor, x0: Tensor, noise: Tensor, timesteps_B: Tensor, frame_mask: Tensor | None = None
    ) -> Tensor:
        """Loss of each sample, fp32 [B].

        Args:
            output: of the network.
            x0: clean latents.
            noise: what they were mixed with.
            timesteps_B: at which timesteps.
            frame_mask: see above.

        Raises:
            ValueError: the output's channels are not what `variance` asks for.
        """
        values, variance_values = self._split(output.float(), x0)
        if variance_values is None or self.variance == "ignored":
            return self._main_losses(values, x0, noise, timesteps_B, frame_mask)
        if self.variance == "bound-only":
            bound_B = self._bound(values, variance_values, x0, noise, timesteps_B, frame_mask)
            return bound_B * len(self._posterior.alpha_bar)
        bound_B = self._bound(values.detach(), variance_values, x0, noise, timesteps_B, frame_mask)
        return self._main_losses(values, x0, noise, timesteps_B, frame_mask) + bound_B

    def _main_losses(
        self, output: Tensor, x0: Tensor, noise: Tensor, timesteps_B: Tensor, frame_mask: Tensor | None
    ) -> Tensor:
        alpha_B, sigma_B = self.schedule.alpha(timesteps_B), self.schedule.sigma(timesteps_B)
        target = self.parameterization.target(x0, noise, per_sample(alpha_B, x0), per_sample(sigma_B, x0))
        power, error = (2, mean_squared_error) if self.loss_type == "l2" else (1, mean_absolute_error)
        weight_B = self.weighting(alpha_B, sigma_B, self.parameterization.x0_error(alpha_B, sigma_B), power)
        return weight_B * error(output, target, frame_mask)

    def _bound(
        self,
        output: Tensor,
        variance_values: Tensor,
        x0: Tensor,
        noise: Tensor,
        timesteps_B: Tensor,
        frame_mask: Tensor | None,
    ) -> Tensor:
        """Bits per element of the bound's term at the timesteps: [B]."""
        noisy = self.noisy(x0, noise, timesteps_B, frame_mask)
        predicted = self.parameterization.x0(noisy, output, *self._levels(timesteps_B, x0))
        return variational_bound(self._posterior, x0, noisy, predicted, variance_values, timesteps_B, frame_mask)

    @cached_property
    def _posterior(self) -> ReversePosterior:
        assert isinstance(self.schedule, DDPMSchedule)
        return ReversePosterior(self.schedule.alpha_bar)

    def _levels(self, timesteps_B: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        alpha_B, sigma_B = self.schedule.alpha(timesteps_B), self.schedule.sigma(timesteps_B)
        return per_sample(alpha_B, latents), per_sample(sigma_B, latents)

    def _kept_levels(self, timesteps_B: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        return self._levels(timesteps_B * 0 + self.schedule.clean_timestep, latents)

    def _split(self, output: Tensor, x0: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.variance == "none":
            return output, None
        channels, expected = output.shape[CHANNEL_AXIS], 2 * x0.shape[CHANNEL_AXIS]
        if channels != expected:
            raise ValueError(f"a network with {channels} output channels; variance {self.variance} takes {expected}")
        return split_variance(output)

"""Which sampler and which guidance, from their flags."""

from dataclasses import dataclass
from typing import Annotated, Literal

from torch import Tensor

from vidtron.config.choices import OneOf
from vidtron.config.ranges import Range
from vidtron.config.run import RunConfig
from vidtron.diffusion.continuous import FlowSchedule
from vidtron.diffusion.denoising import Denoiser, Network
from vidtron.diffusion.editing import AncestralEdit, Draw, FlowEdit, FrameEdit
from vidtron.diffusion.guidance import ConstantScale, DynamicScale, Scale
from vidtron.diffusion.levels import Level, sampling_levels
from vidtron.diffusion.samplers import Progress
from vidtron.diffusion.schedule import DiscreteSchedule, ZeroTerminalSNRSchedule
from vidtron.recipe.choices import SAMPLERS, Walk
from vidtron.recipe.from_config import objective_of, schedule_of, timestep_shift_of


@dataclass
class SamplerConfig:
    """Sampler and guidance"""

    sampler: Annotated[str, OneOf("sampler")] = "ddim"
    """The way from noise to latents."""
    sampler_table: Literal["training", "sat"] = "training"
    """zero-snr: sample at the levels of the training (diffusers) or at SAT's, rescaled for the steps."""
    sampler_eta: Annotated[float, Range(0, 1)] = 0.0
    """ddim: 0 adds no noise, 1 as much as the posterior has."""
    timestep_spacing: Literal["trailing", "even", "ddim"] = "trailing"
    """Timesteps of a table. trailing: from the last down, 0 left out; even: both ends (Open-Sora 1.1); ddim: at a
    whole stride from 0."""
    ancestral_variance: Literal["posterior", "beta"] = "beta"
    """ancestral, where no variance is learned: the least or the greatest sensible one."""
    guidance: Literal["constant", "dynamic"] = "constant"
    """dynamic: CogVideoX's, between 1 and 1 + --guidance-scale."""
    guidance_channels: Annotated[int, Range(1, 4096)] | None = None
    """Guide only so many of the latent's channels (Open-Sora 1.1: 3); unset: all."""


def check_sampler(config: SamplerConfig, run: RunConfig, steps: int, latent_channels: int) -> list[str]:
    """Errors in the sampler's flags for the run whose model is sampled; one message each."""
    errors, schedule = [], schedule_of(run.objective)
    unknown = SAMPLERS.unknown(config.sampler)
    if unknown is not None:
        return [unknown]
    is_table = isinstance(schedule, DiscreteSchedule)
    if steps < 1:
        errors.append(f"--sampling-steps {steps}: accepted: 1 or more")
    elif config.sampler_table == "sat" and run.objective.schedule != "zero-snr":
        errors.append(f"--sampler-table sat: not with --schedule {run.objective.schedule}; accepted: training")
    else:
        try:
            _levels(config, run, steps)
        except ValueError as error:
            errors.append(f"--sampling-steps {steps}: {error}")
    if config.sampler_eta < 0 or (config.sampler_eta > 0 and config.sampler != "ddim"):
        errors.append(f"--sampler-eta {config.sampler_eta:g}: accepted: 0 to 1 with --sampler ddim, else 0")
    elif config.sampler_eta > 1:
        errors.append(f"--sampler-eta {config.sampler_eta:g}: accepted: 0 to 1")
    misfit = SAMPLERS.misfit(config.sampler, run.objective.schedule, schedule)
    if misfit is not None:
        errors.append(misfit)
    if config.timestep_spacing != "trailing" and not is_table:
        errors.append(f"--timestep-spacing {config.timestep_spacing}: needs --schedule zero-snr or ddpm-*")
    channels = config.guidance_channels
    if channels is not None and not 1 <= channels <= latent_channels:
        errors.append(f"--guidance-channels {channels}: accepted: 1 to {latent_channels}")
    return errors


def guidance_of(config: SamplerConfig, scale: float, steps: int) -> Scale:
    """Guidance scale of each timestep."""
    return ConstantScale(scale) if config.guidance == "constant" else DynamicScale(scale, steps)


def guided_channels(config: SamplerConfig, run: RunConfig, latent_channels: int) -> int | None:
    """Channels of the network's output that are guided: never those of a variance."""
    if config.guidance_channels is None and run.objective.predicted_variance != "none":
        return latent_channels
    return config.guidance_channels


def sample_latents(
    network: Network,
    noise: Tensor,
    config: SamplerConfig,
    run: RunConfig,
    steps: int,
    draw: Draw,
    progress: Progress,
    edit: FrameEdit | None = None,
) -> Tensor:
    """Latents of the model's scale, shaped like `noise`.

    Args:
        network: as the samplers take it, guidance included.
        noise: standard normal.
        config: which sampler.
        run: of the training, whose schedule and parameterization are sampled.
        steps: evaluations of the network (heun: twice as many but one).
        draw: noise of each step, for the samplers that add some.
        progress: wraps the list of steps.
        edit: frames that are given, in their places in `noise`; for the samplers that keep frames.
    """
    objective = objective_of(run.objective)
    schedule, snap_to = objective.schedule, None
    if config.sampler_table == "sat" and isinstance(schedule, ZeroTerminalSNRSchedule):
        snap_to = schedule.sat_alphas(range(schedule.timesteps))
    denoise = Denoiser(
        network,
        objective.parameterization,
        variance=objective.variance,
        snap_to=snap_to,
    )
    walk = Walk(denoise, noise, _levels(config, run, steps), draw, edit, progress)
    return SAMPLERS[config.sampler].make(config, walk)


def frame_edit(config: SamplerConfig, run: RunConfig, share_T: Tensor, draw: Draw) -> FrameEdit:
    """Open-Sora's rule for given frames: 1.2's for a rectified flow, 1.1's for a table.

    Other samplers than 1.1's leave the frames that are kept as they are.

    Args:
        config: which sampler.
        run: of the training.
        share_T: how much of the way each frame is denoised.
        draw: noise of frames that begin to be denoised, of each step.
    """
    share = share_T[None, :, None, None, None]
    if isinstance(schedule_of(run.objective), FlowSchedule):
        return FlowEdit(share, draw)
    return AncestralEdit(share, draw, hold=config.sampler != "ancestral")


def _levels(config: SamplerConfig, run: RunConfig, steps: int) -> list[Level]:
    return sampling_levels(
        schedule_of(run.objective),
        steps,
        spacing=config.timestep_spacing,
        table=config.sampler_table,
        shift=timestep_shift_of(run, run.data.size),
    )

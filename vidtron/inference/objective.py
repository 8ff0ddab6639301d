"""The mathematics that a configuration asks for: training, validation and sampling build it here."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from vidtron.config.data import ClipSize
from vidtron.config.objective import ObjectiveConfig
from vidtron.config.run import RunConfig
from vidtron.diffusion import parameterization, weighting
from vidtron.diffusion.continuous import EDMSchedule, FlowSchedule, resolution_shift
from vidtron.diffusion.density import (
    Density,
    LogitNormal,
    LogNormal,
    Mode,
    Shifted,
    Uniform,
    speed_density,
    timesteps_at,
)
from vidtron.diffusion.objective import Objective
from vidtron.diffusion.schedule import DDPMSchedule, Schedule, ZeroTerminalSNRSchedule
from vidtron.diffusion.timesteps import RankGroups
from vidtron.encoders.normalisation import ByFactor, Normalisation


def objective_of(config: ObjectiveConfig) -> Objective:
    """Schedule, meaning of the output, weights and loss."""
    return Objective(
        schedule=schedule_of(config),
        parameterization=parameterization_of(config),
        weighting=weighting_of(config),
        loss_type=config.loss_type,
        variance=config.predicted_variance,
    )


def schedule_of(config: ObjectiveConfig) -> Schedule:
    """Noise levels over timesteps."""
    match config.schedule:
        case "zero-snr":
            return ZeroTerminalSNRSchedule(
                config.noise_shift,
                shift_after_rescale=config.noise_shift_after_rescale,
                keep_start=config.noise_shift_keep_start,
            )
        case "ddpm-linear":
            return DDPMSchedule.linear(shift=config.noise_shift)
        case "ddpm-scaled-linear":
            return DDPMSchedule.scaled_linear(shift=config.noise_shift)
        case "ddpm-cosine":
            return DDPMSchedule.cosine(shift=config.noise_shift)
        case "flow":
            return FlowSchedule()
        case "edm":
            return EDMSchedule(config.edm_sigma_min, config.edm_sigma_max, config.edm_rho)


def parameterization_of(config: ObjectiveConfig) -> parameterization.Parameterization:
    """What the network's output means."""
    match config.parameterization:
        case "velocity":
            return parameterization.Velocity()
        case "epsilon":
            return parameterization.Epsilon()
        case "x0":
            return parameterization.CleanLatent()
        case "flow":
            return parameterization.FlowVelocity()
        case "flow-to-data":
            return parameterization.FlowVelocity(to_data=True)
        case "edm":
            return parameterization.EDM(config.data_std)


def weighting_of(config: ObjectiveConfig) -> weighting.Weighting:
    """What an error counts for at each noise level."""
    match config.loss_weighting:
        case "constant":
            return weighting.Constant()
        case "min-snr":
            return weighting.MinSNR(config.snr_gamma)
        case "soft-min-snr":
            return weighting.SoftMinSNR(config.snr_gamma)
        case "edm":
            return weighting.EDMWeighting(config.data_std)
        case "sat-clamp":
            return weighting.SATClamp(float("inf") if config.sat_clamp is None else config.sat_clamp)
        case "p2":
            return weighting.P2()


def timesteps_of(run: RunConfig, schedule: Schedule, size: ClipSize) -> Callable[[Tensor], Tensor]:
    """Quantiles in [0, 1) -> timesteps of clips of a size, by the density that the run trains with."""
    density, shift = _density(run.objective, schedule), timestep_shift_of(run, size)
    if shift != 1:
        density = Shifted(density, shift)
    return partial(timesteps_at, density, schedule, part=run.objective.timestep_range)


def timestep_shift_of(run: RunConfig, size: ClipSize) -> float:
    """What sigma / alpha of drawn levels, and of a rectified flow's sampling steps, is multiplied by."""
    objective = run.objective
    if not objective.timestep_shift_by_size:
        return objective.timestep_shift
    return resolution_shift(size.height, size.width, size.num_frames, objective.timestep_shift)


def rank_groups_of(config: ObjectiveConfig) -> RankGroups | None:
    """CogVideoX's groups, if the timesteps are to be drawn so."""
    if config.timestep_sampling != "rank-groups":
        return None
    assert config.timestep_ranks is not None
    if config.timestep_groups is None:
        return RankGroups.version_1_0(config.timestep_ranks)
    return RankGroups.version_1_5(config.timestep_ranks, config.timestep_groups)


def _density(config: ObjectiveConfig, schedule: Schedule) -> Density:
    match config.timestep_density:
        case "uniform":
            return Uniform()
        case "log-normal":
            return LogNormal(*_moments(config, -1.2, 1.2))
        case "logit-normal":
            return LogitNormal(*_moments(config, 0.0, 1.0))
        case "mode":
            return Mode(config.density_mode_scale)
        case "speed":
            assert isinstance(schedule, DDPMSchedule)
            return speed_density(schedule.levels(range(schedule.timesteps))[1])


def _moments(config: ObjectiveConfig, mean: float, std: float) -> tuple[float, float]:
    return (
        mean if config.density_mean is None else config.density_mean,
        std if config.density_std is None else config.density_std,
    )


def image_normalisation(run: RunConfig, normalisation: Normalisation) -> Normalisation:
    """Of the latents of a condition image, where those of videos have `normalisation`.

    Raises:
        ValueError: it cannot be inverted.
    """
    match run.objective.image_latent_scale:
        case "scaled":
            return normalisation
        case "unscaled":
            return ByFactor()
        case "inverted":
            return normalisation.inverted()

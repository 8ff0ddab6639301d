"""The mathematics that a configuration asks for: training, validation and sampling build it here."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from vidtron.config.data import ClipSize
from vidtron.config.objective import ObjectiveConfig
from vidtron.config.run import RunConfig
from vidtron.diffusion.continuous import resolution_shift
from vidtron.diffusion.density import Shifted, timesteps_at
from vidtron.diffusion.objective import Objective
from vidtron.diffusion.schedule import Schedule
from vidtron.diffusion.timesteps import RankGroups
from vidtron.recipe.choices import DENSITIES, PARAMETERIZATIONS, SCHEDULES, WEIGHTINGS


def objective_of(config: ObjectiveConfig) -> Objective:
    """Schedule, meaning of the output, weights and loss.

    Raises:
        ValueError: one of them is not known by its name.
    """
    return Objective(
        schedule=schedule_of(config),
        parameterization=PARAMETERIZATIONS[config.parameterization].make(config),
        weighting=WEIGHTINGS[config.loss_weighting].make(config),
        loss_type=config.loss_type,
        variance=config.predicted_variance,
    )


def schedule_of(config: ObjectiveConfig) -> Schedule:
    """Noise levels over timesteps. Raises ValueError: there is none of the name, or its numbers make none."""
    return SCHEDULES[config.schedule].make(config)


def timesteps_of(run: RunConfig, schedule: Schedule, size: ClipSize) -> Callable[[Tensor], Tensor]:
    """Quantiles in [0, 1) -> timesteps of clips of a size, by the density that the run trains with."""
    density = DENSITIES[run.objective.timestep_density].make(run.objective, schedule)
    shift = timestep_shift_of(run, size)
    if shift != 1:
        density = Shifted(density, shift)
    return partial(timesteps_at, density, schedule, part=run.objective.timestep_range)


def timestep_shift_of(run: RunConfig, size: ClipSize) -> float:
    """Factor on sigma / alpha of drawn levels, and of a rectified flow's sampling steps."""
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

"""What an objective can be refused for, before anything is built of it."""

from collections.abc import Iterator

from vidtron.config.objective import ObjectiveConfig
from vidtron.config.run import RunConfig
from vidtron.config.world import World
from vidtron.diffusion.schedule import DDPMSchedule, DiscreteSchedule, Schedule
from vidtron.recipe.choices import DENSITIES, PARAMETERIZATIONS, SCHEDULES, WEIGHTINGS
from vidtron.recipe.frame_mask_flag import parse_frame_masks
from vidtron.recipe.from_config import schedule_of

TIMESTEPS = 1000


def check(config: RunConfig, world: World) -> list[str]:
    """Errors of the recipe, one message each, beginning with the flag and saying what would be accepted."""
    objective = config.objective
    chosen = (
        (SCHEDULES, objective.schedule),
        (PARAMETERIZATIONS, objective.parameterization),
        (WEIGHTINGS, objective.loss_weighting),
        (DENSITIES, objective.timestep_density),
    )
    unknown = [problem for table, name in chosen if (problem := table.unknown(name)) is not None]
    return unknown or list(_errors(config, world))


def _errors(config: RunConfig, world: World) -> Iterator[str]:
    """Mistakes in objectives of which everything is known by its name."""
    objective = config.objective
    try:
        schedule = schedule_of(objective)
    except ValueError:  # of numbers that are named for themselves
        schedule = None
    yield from _orders(objective)
    if schedule is not None:
        yield from _combinations(objective, schedule)
    yield from _without_effect(objective, schedule)
    try:
        parse_frame_masks(objective.frame_masks)
    except ValueError as error:
        yield str(error)
    frames = config.data.num_frames
    if objective.timestep_shift_by_size and frames != 1 and frames < 17:
        yield f"--timestep-shift-by-size: --num-frames {frames}; accepted: 1 or at least 17"
    if objective.timestep_sampling == "rank-groups":
        yield from _rank_groups(config, world, schedule)


def _may_be_table(schedule: Schedule | None) -> bool:
    return schedule is None or isinstance(schedule, DiscreteSchedule)


def _orders(objective: ObjectiveConfig) -> Iterator[str]:
    if objective.edm_sigma_max <= objective.edm_sigma_min:
        yield f"--edm-sigma-max {objective.edm_sigma_max:g}; accepted: more than {objective.edm_sigma_min:g}"
    first, last = objective.timestep_range
    if not first < last:
        yield f"--timestep-range {first:g} {last:g}; accepted: 0 <= FROM < TO <= 1"


def _combinations(objective: ObjectiveConfig, schedule: Schedule) -> Iterator[str]:
    for table, name in (
        (PARAMETERIZATIONS, objective.parameterization),
        (WEIGHTINGS, objective.loss_weighting),
        (DENSITIES, objective.timestep_density),
    ):
        misfit = table.misfit(name, objective.schedule, schedule)
        if misfit is not None:
            yield misfit
    variance = objective.predicted_variance
    if variance in ("learned", "bound-only") and not isinstance(schedule, DDPMSchedule):
        yield f"--predicted-variance {variance}: not with --schedule {objective.schedule}; accepted: a schedule ddpm-*"


def _without_effect(objective: ObjectiveConfig, levels: Schedule | None) -> Iterator[str]:
    """Flags that the other choices leave without effect."""
    schedule, weighting, density = objective.schedule, objective.loss_weighting, objective.timestep_density
    edm_default, rank_groups = ObjectiveConfig(), objective.timestep_sampling == "rank-groups"
    given = {
        "--noise-shift": (objective.noise_shift != 1, _may_be_table(levels), "--schedule zero-snr or ddpm-*"),
        "--noise-shift-after-rescale": (
            objective.noise_shift_after_rescale,
            schedule == "zero-snr",
            "--schedule zero-snr",
        ),
        "--noise-shift-keep-start": (
            objective.noise_shift_keep_start,
            schedule == "zero-snr" and not objective.noise_shift_after_rescale,
            "--schedule zero-snr, and the shift before the rescale",
        ),
        **{
            f"--{name.replace('_', '-')}": (
                getattr(objective, name) != getattr(edm_default, name),
                schedule == "edm",
                "--schedule edm",
            )
            for name in ("edm_sigma_min", "edm_sigma_max", "edm_rho")
        },
        "--sat-clamp": (objective.sat_clamp is not None, weighting == "sat-clamp", "--loss-weighting sat-clamp"),
        "--timestep-ranks": (objective.timestep_ranks is not None, rank_groups, "--timestep-sampling rank-groups"),
        "--timestep-groups": (objective.timestep_groups is not None, rank_groups, "--timestep-sampling rank-groups"),
        **{
            flag: (value is not None, density.endswith("normal"), "--timestep-density log-normal or logit-normal")
            for flag, value in (("--density-mean", objective.density_mean), ("--density-std", objective.density_std))
        },
    }
    for flag, (set_, has_effect, needs) in given.items():
        if set_ and not has_effect:
            yield f"{flag}: needs {needs}"


def _rank_groups(config: RunConfig, world: World, schedule: Schedule | None) -> Iterator[str]:
    objective, parallel, training = config.objective, config.parallel, config.training
    ranks, groups = objective.timestep_ranks, objective.timestep_groups
    plain = objective.timestep_density == "uniform" and objective.timestep_range == (0.0, 1.0)
    shifted = objective.timestep_shift != 1 or objective.timestep_shift_by_size
    if not plain or shifted or not _may_be_table(schedule):
        yield (
            "--timestep-sampling rank-groups: accepted: --timestep-density uniform on a whole table (zero-snr, "
            "ddpm-*), without --timestep-shift and --timestep-shift-by-size"
        )
    if ranks is None:
        yield "--timestep-sampling rank-groups: needs --timestep-ranks, the data-parallel ranks; accepted: 1 or more"
    if ranks is None or ranks < 1:
        return
    if groups is not None and (groups < 1 or (ranks > 8 and (ranks % groups or groups > TIMESTEPS))):
        yield f"--timestep-groups {groups}; accepted: a divisor of --timestep-ranks {ranks}, at most {TIMESTEPS}"
    if training.rampup_batch_size is not None:
        yield "--timestep-sampling rank-groups: not with --rampup-batch-size; accepted: uniform, stratified"
    layout = (
        parallel.tensor_model_parallel_size,
        parallel.pipeline_model_parallel_size,
        parallel.context_parallel_size,
    )
    replicas = max(1, world.size // max(1, layout[0] * layout[1] * layout[2]))
    batch = training.global_batch_size or training.micro_batch_size * replicas
    if batch % ranks:
        yield f"--timestep-ranks {ranks}: accepted: a divisor of the global batch, {batch}"

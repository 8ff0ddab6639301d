"""What an objective can be refused for."""

from collections.abc import Iterator

from vidtron.config.frame_masks import parse_frame_masks
from vidtron.config.objective import ObjectiveConfig
from vidtron.config.run import RunConfig
from vidtron.config.world import World

TIMESTEPS = 1000


def check_objective(config: RunConfig, world: World) -> Iterator[str]:
    """One message per error, each beginning with the flag and saying what would be accepted."""
    objective = config.objective
    yield from _orders(objective)
    yield from _combinations(objective)
    yield from _without_effect(objective)
    try:
        parse_frame_masks(objective.frame_masks)
    except ValueError as error:
        yield str(error)
    frames = config.data.num_frames
    if objective.timestep_shift_by_size and frames != 1 and frames < 17:
        yield f"--timestep-shift-by-size: --num-frames {frames}; accepted: 1 or at least 17"
    if objective.timestep_sampling == "rank-groups":
        yield from _rank_groups(config, world)


def _is_table(objective: ObjectiveConfig) -> bool:
    return objective.schedule not in ("flow", "edm")


def _orders(objective: ObjectiveConfig) -> Iterator[str]:
    if objective.edm_sigma_max <= objective.edm_sigma_min:
        yield f"--edm-sigma-max {objective.edm_sigma_max:g}; accepted: more than {objective.edm_sigma_min:g}"
    first, last = objective.timestep_range
    if not first < last:
        yield f"--timestep-range {first:g} {last:g}; accepted: 0 <= FROM < TO <= 1"


def _combinations(objective: ObjectiveConfig) -> Iterator[str]:
    schedule = objective.schedule
    if objective.parameterization == "velocity" and not _is_table(objective):
        accepted = "flow, flow-to-data, edm, epsilon, x0"
        yield f"--parameterization velocity: not with --schedule {schedule}; accepted: {accepted}"
    if objective.parameterization == "epsilon" and schedule == "zero-snr":
        yield (
            "--parameterization epsilon: not with --schedule zero-snr, at whose end the noise tells nothing of the "
            "latent; accepted: velocity, x0, flow, flow-to-data, edm"
        )
    variance = objective.predicted_variance
    if variance in ("learned", "bound-only") and not schedule.startswith("ddpm-"):
        yield f"--predicted-variance {variance}: not with --schedule {schedule}; accepted: a schedule ddpm-*"
    if objective.timestep_density == "speed" and not schedule.startswith("ddpm-"):
        yield f"--timestep-density speed: not with --schedule {schedule}; accepted: a schedule ddpm-*"


def _without_effect(objective: ObjectiveConfig) -> Iterator[str]:
    """Flags that the other choices leave without effect."""
    schedule, weighting, density = objective.schedule, objective.loss_weighting, objective.timestep_density
    edm_default, rank_groups = ObjectiveConfig(), objective.timestep_sampling == "rank-groups"
    given = {
        "--noise-shift": (objective.noise_shift != 1, _is_table(objective), "--schedule zero-snr or ddpm-*"),
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


def _rank_groups(config: RunConfig, world: World) -> Iterator[str]:
    objective, parallel, training = config.objective, config.parallel, config.training
    ranks, groups = objective.timestep_ranks, objective.timestep_groups
    plain = objective.timestep_density == "uniform" and objective.timestep_range == (0.0, 1.0)
    if not (plain and objective.timestep_shift == 1 and not objective.timestep_shift_by_size and _is_table(objective)):
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

"""Errors of a run that only the trainer can tell, found before any work."""

from collections.abc import Iterator

from vidtron.checkpoint import CheckpointError, ConversionError, base_errors, lora_formats
from vidtron.config.errors import ConfigurationError
from vidtron.config.ranges import refusals
from vidtron.config.run import RunConfig
from vidtron.config.world import World
from vidtron.data.planning.plan import Plan
from vidtron.inference.prompts import VALIDATION_FLAGS, check_prompts
from vidtron.models import registry
from vidtron.recipe.sampler import SamplerConfig, check_sampler
from vidtron.training import folder
from vidtron.training.batch_size import replicas
from vidtron.training.memory import check_memory
from vidtron.training.optimizer import check_optimizer
from vidtron.training.rank_share import RankShare
from vidtron.training.resume import data_errors, likely_choice
from vidtron.training.starting_weights import folder_errors, weights_at, weights_errors
from vidtron.training.training_plan import training_plan
from vidtron.training.validation_samples import prompts_of


def check(config: RunConfig, world: World) -> list[str]:
    """One message per error, each beginning with the flag and saying what would be accepted.

    Encoders are compared with a checkpoint's when the run has opened them.
    """
    plan = _plan(config)
    errors = [
        *check_optimizer(config.optimizer),
        *_check_variance(config),
        *_check_prompts(config),
        *_adapter_errors(config),
        *(_check_batches(config, world, plan) if plan is not None else ()),
    ]
    if not any(refusals(config)):
        sizes = [config.data.size] if plan is None else [bucket.size for bucket in plan.buckets]
        errors += check_memory(config, world, sizes)
    try:
        return [*errors, *_checkpoint_errors(config, plan, ready=not errors)]
    except (CheckpointError, ConversionError) as error:  # damaged, or made to run code
        return [*errors, *(f"--load: {line}" for line in str(error).splitlines())]


def _checkpoint_errors(config: RunConfig, plan: Plan | None, *, ready: bool) -> list[str]:
    """Why the run cannot start from, or go on with, what `--load` leads to, or save where it is told to.

    Args:
        config: of the run.
        plan: None where there is none.
        ready: nothing else is wrong, so that the data can be compared with the checkpoint's.

    Raises:
        CheckpointError, ConversionError: a file of the checkpoint cannot be read.
    """
    errors: list[str] = []
    choice = likely_choice(config.checkpoint)
    if choice.errors:
        return [*choice.errors]
    latest = choice.path
    weights = weights_at(config.checkpoint, latest)
    if weights is not None:
        return [*folder_errors(config.checkpoint, weights), *weights_errors(config, weights)]
    errors += folder.check_folders(config.checkpoint, latest)
    lora_base = config.adaptation.lora_base
    if latest is None and lora_base is not None:
        errors.append(f"--lora-base {lora_base}: there are no adapters to go on with; accepted: with --load")
    if latest is not None:
        errors += base_errors(latest, lora_base)
    if latest is None or errors or plan is None or not ready:
        return errors
    return data_errors(latest, {"--data-path": plan.fingerprint()})


def _plan(config: RunConfig) -> Plan | None:
    """The plan of the run; None where the data room has said why there is none."""
    try:
        return training_plan(config, registry.family_of(config.model))
    except ValueError:  # ShardError is one
        return None


def _check_batches(config: RunConfig, world: World, plan: Plan) -> Iterator[str]:
    """Buckets whose batches the objective or the interleaved pipeline cannot take. Those that do not divide among the
    replicas the data room names."""
    objective = config.objective
    copies = replicas(config, world.size)
    share = RankShare.from_config(config, replica=0, replicas=copies, rank=0, ranks=1)
    told = {(bucket.resolution, bucket.size.num_frames): bucket for bucket in plan.buckets}
    for bucket in told.values():
        if bucket.batch_size is None:
            continue
        where = f"{bucket.size.num_frames} frames at {bucket.resolution}"
        if bucket.batch_size % copies == 0:
            try:
                share.micro_batch_of(bucket.batch_size)
            except ValueError as error:
                yield f"--bucket-config: {where}: {error}"
        if objective.timestep_ranks is not None and bucket.batch_size % objective.timestep_ranks:
            yield (
                f"--timestep-ranks {objective.timestep_ranks}: does not divide the batches of {bucket.batch_size} of "
                f"{where}; accepted: a number that does"
            )
        if objective.timestep_shift_by_size and 1 < bucket.size.num_frames < 17:
            yield f"--timestep-shift-by-size: {where}; accepted: 1 frame or at least 17"


def _adapter_errors(config: RunConfig) -> list[str]:
    """What is wrong with the file of --lora-load."""
    path = config.adaptation.lora_load
    if path is None:
        return []
    if not path.exists():
        return [f"--lora-load {path}: does not exist; accepted: a diffusers or SAT LoRA file or folder"]
    try:
        form = lora_formats.format_of(path)
        adapters = lora_formats.read(
            path, form, family=registry.family_of(config.model), verify=config.checkpoint.verify_checkpoint
        )
    except CheckpointError as error:
        return [f"--lora-load {line}" for line in str(error).splitlines()]
    ranks = sorted({adapter.rank for adapter in adapters.values()})
    if ranks != [config.adaptation.lora_rank]:
        return [
            f"--lora-rank {config.adaptation.lora_rank}: the adapters of --lora-load {path} have rank "
            f"{', '.join(map(str, ranks))}; accepted: the same, one for all"
        ]
    return []


def _check_variance(config: RunConfig) -> list[str]:
    """A predicted variance needs a network whose output has room for it, and that room a use."""
    variance, family = config.objective.predicted_variance, registry.family_of(config.model)
    latent, answered = family.geometry(config).channels, family.output_channels(config)
    wanted = latent if variance == "none" else 2 * latent
    if answered == wanted:
        return []
    return [
        f"--out-channels {answered} with --predicted-variance {variance}: latents have {latent} channels; "
        f"accepted: {wanted}"
    ]


def _check_prompts(config: RunConfig) -> Iterator[str]:
    validation = config.validation
    family = registry.family_of(config.model)
    try:
        prompts = prompts_of(validation)
    except ConfigurationError as error:
        yield from error.errors
        return
    for problem in check_sampler(
        SamplerConfig(), config, validation.validation_sampling_steps, family.latent_shape(config)[1]
    ):
        yield problem.replace("--sampling-steps", "--validation-sampling-steps")
    yield from check_prompts(prompts, image_conditioned=family.inputs(config).image_latents, flags=VALIDATION_FLAGS)
    for image in sorted({prompt.image for prompt in prompts if prompt.image is not None}):
        if not image.is_file():
            yield f"{VALIDATION_FLAGS.images} {image}: no such file; accepted: a picture"

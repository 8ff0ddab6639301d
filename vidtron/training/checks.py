"""Errors of a run that only the trainer can tell, found before any work."""

from collections.abc import Iterator

from vidtron.checkpoint import CheckpointError, base_errors, lora_formats
from vidtron.config.run import RunConfig
from vidtron.config.world import World
from vidtron.data.index import ShardIndex
from vidtron.data.plan import Plan
from vidtron.inference.sampling import SamplerConfig, check_sampler
from vidtron.models import registry
from vidtron.training import folder
from vidtron.training.resume import data_errors, find_checkpoint
from vidtron.training.starting_weights import find_weights, folder_errors, weights_errors
from vidtron.training.validation_samples import prompts_of


def check(config: RunConfig, world: World) -> list[str]:
    """One message per error, each beginning with the flag and saying what would be accepted.

    Encoders are compared with a checkpoint's when the run has opened them.
    """
    errors = [*_check_variance(config), *_check_prompts(config), *_adapter_errors(config)]
    weights = find_weights(config.checkpoint)
    if weights is not None:
        return [*errors, *folder_errors(config.checkpoint, weights), *weights_errors(config, weights)]
    latest = find_checkpoint(config.checkpoint.load)
    errors += folder.check_folders(config.checkpoint, latest)
    lora_base = config.adaptation.lora_base
    if latest is None and lora_base is not None:
        errors.append(f"--lora-base {lora_base}: there are no adapters to go on with; accepted: with --load")
    if latest is not None:
        errors += base_errors(latest, lora_base)
    if latest is None or errors:
        return errors
    plan = Plan.from_config(ShardIndex.open(config.data.data_path), config.data, config.training.seed)
    return data_errors(latest, {"--data-path": plan.fingerprint()})


def _adapter_errors(config: RunConfig) -> list[str]:
    """What is wrong with the file of --lora-load."""
    path = config.adaptation.lora_load
    if path is None:
        return []
    if not path.exists():
        return [f"--lora-load {path}: does not exist; accepted: a diffusers or SAT LoRA file or folder"]
    try:
        adapters = lora_formats.read(path, lora_formats.format_of(path))
    except CheckpointError as error:
        return [f"--lora-load {error}"]
    ranks = sorted({adapter.rank for adapter in adapters.values()})
    if ranks != [config.adaptation.lora_rank]:
        return [
            f"--lora-rank {config.adaptation.lora_rank}: the adapters of --lora-load {path} have rank "
            f"{', '.join(map(str, ranks))}; accepted: the same, one for all"
        ]
    return []


def _check_variance(config: RunConfig) -> list[str]:
    """A predicted variance needs a network whose output has room for it."""
    variance = config.objective.predicted_variance
    latent = registry.family_of(config.model).latent_shape(config)[1]
    if variance == "none" or config.network.out_channels == 2 * latent:
        return []
    return [
        f"--predicted-variance {variance}: the network of {config.model} answers with {config.network.out_channels} "
        f"channels for latents of {latent}; accepted: none"
    ]


def _check_prompts(config: RunConfig) -> Iterator[str]:
    validation = config.validation
    file = validation.validation_prompts_file
    try:
        prompts = prompts_of(validation)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        yield f"--validation-prompts-file {file}: {reason}; accepted: a text file with a prompt a line"
        return
    if file is not None and len(prompts) == len(validation.validation_prompts):
        yield f"--validation-prompts-file {file}: no prompts in it; accepted: a text file with a prompt a line"
    latent_channels = registry.family_of(config.model).latent_shape(config)[1]
    for problem in check_sampler(SamplerConfig(), config, validation.validation_sampling_steps, latent_channels):
        yield problem.replace("--sampling-steps", "--validation-sampling-steps")
    if prompts and registry.family_of(config.model).image_conditioned(config.network):
        yield "--validation-prompts: an image-to-video model needs images as well; accepted: text-to-video models"

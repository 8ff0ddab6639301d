"""Videos from prompts with a checkpoint, on the ranks of a run."""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from vidtron.config.run import RunConfig
from vidtron.config.world import World
from vidtron.encoders import factory
from vidtron.inference import weights
from vidtron.inference.config import ENCODER_PATHS, SamplingConfig
from vidtron.inference.long_video import ClipChain, check_clips, gives_frames
from vidtron.inference.prompts import Prompt, check_prompts
from vidtron.inference.video_sampler import Progress, VideoSampler
from vidtron.models import registry
from vidtron.models.build import build_chunks
from vidtron.parallel import Groups, PatientBarrier, Team, gather_objects, initialized, model_parallel_size, pair_of
from vidtron.parallel import check as check_layout
from vidtron.recipe.sampler import check_sampler

T = TypeVar("T")


@dataclass(frozen=True)
class Video:
    """A sampled video."""

    prompt: Prompt
    frames_TCHW: Tensor
    """uint8."""
    latents_TCHW: Tensor
    """Of the model's scale; of a video of several clips [clips, T, C, H, W]."""
    fps: float


@dataclass(frozen=True)
class Failure:
    """A prompt that gave no video."""

    prompt: Prompt
    reason: str


def sampled_run(config: SamplingConfig, world: World) -> RunConfig:
    """The run that the weights are of, as it is sampled: its layout, sizes and encoders are those of `config`.

    Raises:
        ValueError: there are no such weights.
    """
    run = weights.configuration_of(config)
    run.parallel = config.parallel
    # Sampling has no global batch; this one fits every layout.
    stages = max(1, config.parallel.pipeline_model_parallel_size)
    run.training = dataclasses.replace(
        run.training, micro_batch_size=1, global_batch_size=world.size * stages, rampup_batch_size=None
    )
    run.precision = dataclasses.replace(
        run.precision,
        bf16=run.precision.bf16 if config.dtype is None else config.dtype == "bf16",
        transformer_impl="auto",
        fp8_format=run.precision.fp8_format if _has_transformer_engine(world) and config.dtype != "fp32" else None,
        recompute_granularity=None,
        recompute_method=None,
        recompute_num_layers=None,
    )
    for section, names in (
        (run.data, ("num_frames", "height", "width", "fps")),
        (run.encoders, ENCODER_PATHS),
        (run.objective, ("image_latent_scale",)),
    ):
        for name in names:
            if getattr(config, name) is not None:
                setattr(section, name, getattr(config, name))
    # Those of the training are about its speed and memory.
    run.encoders = dataclasses.replace(
        run.encoders,
        vae_tiling=config.vae_tiling,
        vae_slicing=False,
        encoder_offload=False,
        compile_encoders=False,
        latent_cache=None,
    )
    return run


def check(config: SamplingConfig, run: RunConfig, world: World, prompts: Sequence[Prompt]) -> list[str]:
    """Errors in a sampling configuration, given that of the sampled run; one message each."""
    family = registry.family_of(run.model)
    errors = [*weights.check(config), *family.check(run, world)]
    latent_channels = family.geometry(run).channels
    errors += factory.check(run, world, family.geometry(run), family.texts(run))
    errors += check_sampler(config.method, run, config.sampling_steps, latent_channels)
    if config.fps is not None and not config.fps > 0:
        errors.append(f"--fps {config.fps:g}; accepted: more than 0")
    at_once = config.vae_frames_at_once
    if at_once < 2 or at_once % 2:
        errors.append(f"--vae-frames-at-once {at_once}; accepted: even numbers from 2 on")
    if config.vae_tiling and run.encoders.vae_path is None:
        errors.append("--vae-tiling: the built-in autoencoder has no tiles; accepted: with --vae-path")
    errors += check_clips(config, run, prompts)
    errors += check_layout(run, world)
    replicas = world.size // max(1, model_parallel_size(run))
    if config.split_guidance == "on" and (replicas % 2 or not _is_guided(config)):
        errors.append(
            f"--split-guidance on: {replicas} replicas and --guidance-scale {config.guidance_scale:g}; accepted: an "
            "even number of replicas, and guidance"
        )
    return [*errors, *check_prompts(prompts, image_conditioned=family.inputs(run).image_latents)]


def splits_guidance(config: SamplingConfig, replicas: int, prompts: int) -> bool:
    """Whether two replicas share a video: on request, or where fewer turns of one evaluation are needed so."""
    if config.split_guidance != "auto" or replicas % 2 or not _is_guided(config):
        return config.split_guidance == "on"
    return -(-2 * prompts // replicas) < 2 * -(-prompts // replicas)


def load_sampler(
    config: SamplingConfig, run: RunConfig, groups: Groups, pair: ProcessGroup | None = None
) -> VideoSampler:
    """A checkpoint's model and encoders. All ranks call this together. Raises ConfigurationError: it is damaged.

    Args:
        config: what to sample with.
        run: `sampled_run` of it.
        groups: this run's process groups.
        pair: two replicas that halve guidance between them.
    """
    family = registry.family_of(run.model)
    with weights.verification(config, groups) as verification:
        chunks = build_chunks(family, run, groups)
        encoders, device = run.encoders, groups.device
        dtype = factory.encoder_dtype(run, device)
        autoencoder = factory.video_autoencoder(
            encoders, family.geometry(run), device, dtype, frames_at_once=config.vae_frames_at_once
        )
        text_encoders = factory.text_encoders(encoders, family.texts(run), device, dtype)
        for remark in weights.await_verification(config, groups, verification):
            if groups.rank == 0:
                print(f"note: {remark}", file=sys.stderr, flush=True)
    weights.load_into(chunks, config, groups)
    return VideoSampler(config, run, groups, chunks, autoencoder, text_encoders, pair)


def sample(
    config: SamplingConfig,
    run: RunConfig,
    world: World,
    prompts: Sequence[Prompt],
    deliver: Callable[[Video], None],
    progress: Callable[[Prompt, list[int]], Any] = lambda prompt, steps: steps,
    report: Callable[[Failure], None] = lambda failure: None,
) -> list[Failure]:
    """Sample a video of each prompt; replicas, or pairs of them, take turns.

    A prompt whose image cannot be read, or whose video is not finite or cannot be written, does not stop the others:
    the ranks that work on it agree to leave it. An exception inside the network, where several ranks are in mid-talk,
    is raised; with one rank to a video it too is the prompt's alone.

    Args:
        config: what to sample with.
        run: `sampled_run` of it.
        world: as the launcher started this rank.
        prompts: one video each.
        deliver: called with each video on the first rank of those that made it.
        progress: wraps the list of a video's steps, for a progress bar.
        report: called with each failure, on the same rank, when it happens.

    Returns:
        The failures of all ranks, in the order of the prompts, on every rank.
    """
    with initialized(run, world) as groups:
        pair = None
        if splits_guidance(config, groups.dp_size, len(prompts)):
            pair = pair_of(groups, timedelta(minutes=run.parallel.distributed_timeout_minutes))
        team = Team(groups, pair)
        everyone = PatientBarrier(groups)
        sampler = load_sampler(config, run, groups, pair)
        own: list[Failure] = []
        for prompt in prompts[team.number :: team.count]:
            reason = _make(sampler, team, prompt, deliver, partial(progress, prompt))
            if reason is not None and team.leads:
                own.append(Failure(prompt, reason))
                report(own[-1])
        everyone.wait()
        found = gather_objects(own, groups.world)
        return sorted((failure for part in found for failure in part), key=lambda failure: failure.prompt.number)


def _make(
    sampler: VideoSampler, team: Team, prompt: Prompt, deliver: Callable[[Video], None], progress: Progress
) -> str | None:
    """Make one video; gives the reason why there is none, on all ranks of the team."""
    maker: Any = ClipChain(sampler) if gives_frames(sampler.config.given) else sampler
    conditions, reason = _attempt(lambda: maker.conditions(prompt), team)
    if conditions is None:
        return reason

    def sampled() -> Tensor:
        return maker.latents(prompt, conditions, progress)

    latents, reason = _attempt(sampled, team) if team.size == 1 else (sampled(), None)
    if latents is None:
        return reason

    def finish() -> bool:
        if not torch.isfinite(latents).all():
            raise ValueError("the latents are not finite")
        if team.leads:
            deliver(Video(prompt, maker.decode(latents), latents.cpu(), sampler.fps))
        return True

    return _attempt(finish, team)[1]


def _attempt(action: Callable[[], T], team: Team) -> tuple[T | None, str | None]:
    """(what the action returns, None), or (None, why it failed on one of the team's ranks)."""
    result, error = None, None
    try:
        result = action()
    except Exception as failure:
        error = f"{type(failure).__name__}: {failure}"
    error = team.first_error(error)
    return (result, None) if error is None else (None, error)


def _is_guided(config: SamplingConfig) -> bool:
    return config.method.guidance == "dynamic" or config.guidance_scale != 1


def _has_transformer_engine(world: World) -> bool:
    return world.has_cuda and "transformer_engine" in world.packages

"""Videos from prompts with a checkpoint of a run.

Shape letters: B samples, T C H W latent frames, channels, height, width, L text tokens, E text width.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidtron import checkpoint
from vidtron.config import cli
from vidtron.config.parallel import ParallelConfig
from vidtron.config.run import RunConfig
from vidtron.config.world import World
from vidtron.diffusion.samplers import ddim
from vidtron.diffusion.schedule import ZeroTerminalSNRSchedule
from vidtron.encoders.factory import text_encoder, video_autoencoder
from vidtron.inference.denoiser import Denoiser, with_guidance
from vidtron.inference.video_io import to_uint8
from vidtron.models import registry
from vidtron.models.build import build_chunks
from vidtron.parallel import Groups, initialized, sample_generator

Progress = Callable[[list[int]], Any]


@dataclass
class SamplingConfig:
    """Sampling"""

    load: Path
    """Run folder (its latest checkpoint) or one iter_* folder."""
    lora_base: Path | None = None
    """iter_* folder of the frozen weights below --load's adapters, if they are not where the checkpoint says."""
    sampling_steps: int = 50
    """Evaluations of the network for one video."""
    guidance_scale: float = 6.0
    """Classifier-free guidance; 1: none."""
    seed: int = 1234
    """The noise of a video depends on this and on the prompt's number alone."""
    parallel: ParallelConfig = field(default_factory=ParallelConfig)


@dataclass(frozen=True)
class Video:
    """One sampled video."""

    number: int
    prompt: str
    frames_TCHW: Tensor
    """uint8."""
    fps: float


def checkpoint_of(load: Path) -> Path:
    """The checkpoint that `--load` leads to.

    Raises:
        ValueError: there is none.
    """
    found = load if checkpoint.is_complete(load) else checkpoint.latest(load) if load.is_dir() else None
    if found is None:
        raise ValueError(f"--load {load}: no complete checkpoint; accepted: a run folder or an iter_* folder of one")
    return found


def configuration_of(load: Path) -> RunConfig:
    """The configuration of the run that wrote the checkpoint `--load` leads to. Raises ValueError."""
    return cli.load(checkpoint_of(load) / "config.yaml", registry.preset, registry.preset_names())


def check(config: SamplingConfig, run: RunConfig, world: World) -> list[str]:
    """What of a sampling configuration cannot work for the run it loads."""
    errors = registry.family_of(run.model).check(run, world)
    errors += checkpoint.base_errors(checkpoint_of(config.load), config.lora_base)
    if config.sampling_steps < 1:
        errors.append(f"--sampling-steps {config.sampling_steps}: accepted: 1 or more")
    if registry.family_of(run.model).image_conditioned(run.network):
        errors.append(f"--load {config.load}: an image-to-video model; accepted: text-to-video models")
    return errors


class VideoSampler:
    """A checkpoint's model and encoders on the ranks of a run. All ranks make one and call it together."""

    def __init__(self, config: SamplingConfig, run: RunConfig, groups: Groups):
        """
        Args:
            config: what to sample with.
            run: the run that wrote the checkpoint, in the layout of this one.
            groups: this run's process groups.
        """
        self.config, self.run, self.groups = config, run, groups
        family = registry.family_of(run.model)
        chunks = build_chunks(family, run, groups)
        checkpoint.load_with_base(checkpoint_of(config.load), chunks, None, None, groups, config.lora_base)
        self.denoiser = Denoiser(chunks, groups, sequence_length=family.sequence_length(run))
        self.schedule = ZeroTerminalSNRSchedule(run.objective.noise_shift)
        self.latent_shape = family.latent_shape(run)
        network, encoders = run.network, run.encoders
        self.autoencoder = video_autoencoder(encoders, groups.device, torch.float32)
        self.text_encoder = text_encoder(
            encoders, network.text_length, network.text_width, groups.device, torch.float32
        )

    def latents(self, prompt: str, number: int, progress: Progress = lambda steps: steps) -> Tensor:
        """Scaled latents of one video, fp32 [T, C, H, W], the same on all ranks of the replica."""
        text_BLE = self.text_encoder.encode([prompt]).to(self.groups.device)
        noise = torch.randn(self.latent_shape, generator=sample_generator(self.config.seed, number, "noise"))
        network = with_guidance(self.denoiser, text_BLE, self.config.guidance_scale)
        noise_BTCHW = noise[None].to(self.groups.device)
        return ddim(network, noise_BTCHW, self.schedule, self.config.sampling_steps, progress)[0]

    def decode(self, latents_TCHW: Tensor) -> Tensor:
        """Frames [T, C, H, W], uint8; latent frames that only padded the model's patches are dropped first."""
        data = self.run.data
        frames = self.autoencoder.latent_shape(data.num_frames, data.height, data.width)[1]
        unscaled = latents_TCHW[-frames:] / self.run.encoders.scale_factor
        return to_uint8(self.autoencoder.decode(unscaled.transpose(0, 1)))


def sample(
    config: SamplingConfig,
    run: RunConfig,
    world: World,
    prompts: list[str],
    deliver: Callable[[Video], None],
    progress: Progress = lambda steps: steps,
) -> None:
    """Sample a video of each prompt; the replicas take turns.

    Args:
        config: what to sample with.
        run: `configuration_of(config.load)` with the layout of this run.
        world: as the launcher started this rank.
        prompts: one video each.
        deliver: called with each video on the first rank of the replica that made it.
        progress: wraps the list of steps, for a progress bar.
    """
    fps = run.data.fps or 8.0
    with initialized(run, world) as groups:
        sampler = VideoSampler(config, run, groups)
        for number in range(groups.dp_rank, len(prompts), groups.dp_size):
            latents = sampler.latents(prompts[number], number, progress)
            if groups.replica_rank == 0:
                deliver(Video(number, prompts[number], sampler.decode(latents), fps))

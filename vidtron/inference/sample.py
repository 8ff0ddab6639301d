"""Videos from prompts with a checkpoint of a run.

Shape letters: B samples, T C H W latent frames, channels, height, width, L text tokens, E text width.
"""

from collections.abc import Callable, Sequence
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
from vidtron.encoders.base import TextEncoder, VideoAutoencoder
from vidtron.encoders.factory import text_encoder, video_autoencoder
from vidtron.inference.denoiser import Denoiser, with_guidance
from vidtron.inference.sampling import SamplerConfig, check_sampler, guidance_of, guided_channels, sample_latents
from vidtron.inference.video_io import to_uint8
from vidtron.models import registry
from vidtron.models.build import build_chunks
from vidtron.parallel import Groups, initialized, named_generator, sample_generator

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
    ema: str | None = None
    """Sample from this average of the weights (0.9999, power_0.05); unset: from the weights."""
    seed: int = 1234
    """The noise of a video depends on this and on the prompt's number alone."""
    method: SamplerConfig = field(default_factory=SamplerConfig)
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
    latent_channels = registry.family_of(run.model).latent_shape(run)[1]
    errors += check_sampler(config.method, run, config.sampling_steps, latent_channels)
    averages = checkpoint.averages_in(checkpoint_of(config.load)) if config.ema is not None else []
    if config.ema is not None and config.ema not in averages:
        errors.append(f"--ema {config.ema}: not in the checkpoint; accepted: {', '.join(averages) or 'none, no EMA'}")
    if registry.family_of(run.model).image_conditioned(run.network):
        errors.append(f"--load {config.load}: an image-to-video model; accepted: text-to-video models")
    return errors


class VideoSampler:
    """A model and its encoders on the ranks of a run. All ranks make one and call it together."""

    def __init__(
        self,
        config: SamplingConfig,
        run: RunConfig,
        groups: Groups,
        chunks: Sequence[torch.nn.Module],
        autoencoder: VideoAutoencoder,
        text_encoder: TextEncoder,
    ):
        """
        Args:
            config: what to sample with.
            run: that the model is of, in the layout of this one.
            groups: this run's process groups.
            chunks: this rank's bare chunks of the model; put into evaluation mode.
            autoencoder: decodes.
            text_encoder: encodes prompts.
        """
        self.config, self.run, self.groups = config, run, groups
        family = registry.family_of(run.model)
        self.denoiser = Denoiser(
            chunks,
            groups,
            sequence_length=family.sequence_length(run),
            predicts_variance=run.objective.predicted_variance != "none",
        )
        self.latent_shape = family.latent_shape(run)
        self.autoencoder, self.text_encoder = autoencoder, text_encoder
        self.fps = run.data.fps or 8.0

    def latents(self, prompt: str, number: int, progress: Progress = lambda steps: steps) -> Tensor:
        """Scaled latents of one video, fp32 [T, C, H, W], the same on all ranks of the replica."""
        config, run, device = self.config, self.run, self.groups.device
        text_BLE = self.text_encoder.encode([prompt]).to(device)
        null_text_BLE = torch.zeros_like(text_BLE)
        if run.objective.null_text == "empty-prompt":
            null_text_BLE = self.text_encoder.encode([""]).to(device)
        network = with_guidance(
            self.denoiser,
            text_BLE,
            null_text_BLE,
            guidance_of(config.method, config.guidance_scale, config.sampling_steps),
            guided_channels(config.method, run, self.latent_shape[1]),
        )

        def draw(step: int) -> Tensor:
            generator = named_generator(config.seed, f"sampler's noise of video {number} at step {step}")
            return torch.randn(self.latent_shape, generator=generator)[None].to(device)

        noise = torch.randn(self.latent_shape, generator=sample_generator(config.seed, number, "noise"))
        noise_BTCHW = noise[None].to(device)
        return sample_latents(network, noise_BTCHW, config.method, run, config.sampling_steps, draw, progress)[0]

    def decode(self, latents_TCHW: Tensor) -> Tensor:
        """Frames [T, C, H, W], uint8; latent frames that only padded the model's patches are dropped first."""
        data = self.run.data
        frames = self.autoencoder.latent_shape(data.num_frames, data.height, data.width)[1]
        unscaled = latents_TCHW[-frames:] / self.run.encoders.scale_factor
        return to_uint8(self.autoencoder.decode(unscaled.transpose(0, 1)))


def load_sampler(config: SamplingConfig, run: RunConfig, groups: Groups) -> VideoSampler:
    """A checkpoint's model and encoders. All ranks call this together.

    Args:
        config: what to sample with.
        run: the run that wrote the checkpoint, in the layout of this one.
        groups: this run's process groups.
    """
    chunks = build_chunks(registry.family_of(run.model), run, groups)
    if config.ema is None:
        checkpoint.load_with_base(checkpoint_of(config.load), chunks, None, None, groups, moved_to=config.lora_base)
    else:
        checkpoint.load_average_with_base(
            checkpoint_of(config.load), chunks, config.ema, groups, moved_to=config.lora_base
        )
    network, encoders, device = run.network, run.encoders, groups.device
    return VideoSampler(
        config,
        run,
        groups,
        chunks,
        video_autoencoder(encoders, device, torch.float32),
        text_encoder(encoders, network.text_length, network.text_width, device, torch.float32),
    )


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
    with initialized(run, world) as groups:
        sampler = load_sampler(config, run, groups)
        for number in range(groups.dp_rank, len(prompts), groups.dp_size):
            latents = sampler.latents(prompts[number], number, progress)
            if groups.replica_rank == 0:
                deliver(Video(number, prompts[number], sampler.decode(latents), sampler.fps))

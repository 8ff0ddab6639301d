"""Jobs of the rank pool that sample, and what they take."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from vidtron.config.world import World
from vidtron.inference.config import SamplingConfig
from vidtron.inference.prompts import Prompt
from vidtron.inference.run import Failure, Video, check, sample, sampled_run
from vidtron.inference.video_sampler import VideoSampler

TEXTS = ["moving colours, number 1", "moving colours, number 2", "nothing at all"]
SEED = 5


def prompts(count: int = 2, images: list[Path] | None = None) -> list[Prompt]:
    """The first texts, with the image of the same number."""
    return [Prompt(TEXTS[i], i, SEED, image=None if images is None else images[i % len(images)]) for i in range(count)]


def config_of(load: Path, **flags: Any) -> SamplingConfig:
    """Three steps of guided sampling, unless `flags` say otherwise."""
    return SamplingConfig(load, **{"sampling_steps": 3, "guidance_scale": 4.0, **flags})


def errors_of(world: World, wanted: list[Prompt], config: SamplingConfig) -> list[str]:
    """What `check` says."""
    return check(config, sampled_run(config, world), world, wanted)


def sampled(
    rank: int, load: Path, wanted: list[Prompt], flags: dict[str, Any], **more: Any
) -> tuple[list[Video], list[Failure]]:
    """Job: what this rank was given, and the failures."""
    config, world = config_of(load, **flags), World.from_environment()
    run = sampled_run(config, world)
    errors = check(config, run, world, wanted)
    assert not errors, errors
    videos: list[Video] = []
    return videos, sample(config, run, world, wanted, videos.append, **more)


def sampled_with_trouble(
    rank: int, load: Path, wanted: list[Prompt], flags: dict[str, Any], troubled_rank: int
) -> tuple[list[int], list[tuple[int, str]], list[int]]:
    """Job: on one rank alone the first prompt cannot be encoded; everywhere the second is not finite and the third
    cannot be delivered. Returns the numbers delivered, the failures, and what was reported here."""
    conditions, latents = VideoSampler.conditions, VideoSampler.latents
    delivered: list[int] = []
    reported: list[int] = []

    def failing_conditions(self, prompt):
        if prompt.number == 0 and rank == troubled_rank:
            raise RuntimeError("no such words")
        return conditions(self, prompt)

    def failing_latents(self, prompt, *arguments):
        result = latents(self, prompt, *arguments)
        return result * torch.nan if prompt.number == 1 else result

    def deliver(video):
        if video.prompt.number == 2:
            raise OSError("disk full")
        delivered.append(video.prompt.number)

    config, world = config_of(load, **flags), World.from_environment()
    with (
        patch.object(VideoSampler, "conditions", failing_conditions),
        patch.object(VideoSampler, "latents", failing_latents),
    ):
        failures = sample(
            config,
            sampled_run(config, world),
            world,
            wanted,
            deliver,
            report=lambda failure: reported.append(failure.prompt.number),
        )
    return delivered, [(failure.prompt.number, failure.reason) for failure in failures], reported

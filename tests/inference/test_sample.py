"""A checkpoint sampled under every kind of layout gives one video."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.distributed.layouts import small_run
from vidtron import training
from vidtron.config.parallel import ParallelConfig
from vidtron.config.world import World
from vidtron.inference.sample import SamplingConfig, configuration_of, load_sampler, sample
from vidtron.inference.sampling import SamplerConfig
from vidtron.inference.video_io import read_video
from vidtron.parallel import initialized

ROOT = Path(__file__).parents[2]
PROMPTS = ["moving colours, number 1", "moving colours, number 2", "nothing at all"]


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory):
    """Run folder of a network that has taken a few steps."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    training.run(small_run(shards, save=folder, lr=1e-2, ema_decay=[0.9]), World.from_environment())
    return folder


def sampled_latents(
    rank: int, load: Path, parallel: ParallelConfig, guidance: float, ema: str | None = None
) -> torch.Tensor:
    """Job: latents of the second prompt."""
    config = SamplingConfig(load, sampling_steps=3, guidance_scale=guidance, ema=ema, parallel=parallel)
    run = dataclasses.replace(configuration_of(load), parallel=parallel)
    run.training.global_batch_size = None
    with initialized(run, World.from_environment()) as groups:
        return load_sampler(config, run, groups).latents(PROMPTS[1], number=1)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize(
    "parallel",
    [
        ParallelConfig(tensor_model_parallel_size=2, sequence_parallel=True),
        ParallelConfig(pipeline_model_parallel_size=2),
        ParallelConfig(context_parallel_size=2),
    ],
    ids=["TP2+SP", "PP2", "CP2"],
)
def test_latents_are_the_same_under_every_layout(pool, trained, parallel, guidance):
    alone = pool.run(sampled_latents, 1, trained, ParallelConfig(), guidance)[0]
    assert alone.std() > 0.1
    for latents in pool.run(sampled_latents, 2, trained, parallel, guidance):
        torch.testing.assert_close(latents, alone, rtol=0, atol=1e-4)


def noisily_sampled_latents(rank: int, load: Path, parallel: ParallelConfig) -> torch.Tensor:
    """Job: latents of the second prompt by CogVideoX's own sampler, which adds noise in every step."""
    method = SamplerConfig(sampler="dpmpp-2m-sde", sampler_table="sat", guidance="dynamic")
    config = SamplingConfig(load, sampling_steps=3, guidance_scale=6.0, method=method, parallel=parallel)
    run = dataclasses.replace(configuration_of(load), parallel=parallel)
    run.training.global_batch_size = None
    with initialized(run, World.from_environment()) as groups:
        return load_sampler(config, run, groups).latents(PROMPTS[1], number=1)


@pytest.mark.parametrize("parallel", [ParallelConfig(tensor_model_parallel_size=2), ParallelConfig()])
def test_added_noise_is_the_same_under_every_layout(pool, trained, parallel):
    alone = pool.run(noisily_sampled_latents, 1, trained, ParallelConfig())[0]
    for latents in pool.run(noisily_sampled_latents, 2, trained, parallel):
        torch.testing.assert_close(latents, alone, rtol=0, atol=1e-4)


def test_adapters_are_sampled_on_their_base(pool, shards, trained, tmp_path):
    """The same from a checkpoint of everything and from one of adapters alone."""
    flags = {"load": trained, "finetune": True, "lora_rank": 2, "lr": 1e-2}
    world = World.from_environment()
    for name, alone in (("whole", False), ("alone", True)):
        training.run(small_run(shards, save=tmp_path / name, save_lora_only=alone, **flags), world)
    whole, alone = (pool.run(sampled_latents, 1, tmp_path / n, ParallelConfig(), 1.0)[0] for n in ("whole", "alone"))
    torch.testing.assert_close(alone, whole, rtol=0, atol=1e-5)
    base = pool.run(sampled_latents, 1, trained, ParallelConfig(), 1.0)[0]
    assert (base - whole).abs().max() > 1e-3


def test_guidance_and_number_of_the_prompt_matter(pool, trained):
    plain, guided = (pool.run(sampled_latents, 1, trained, ParallelConfig(), scale)[0] for scale in (1.0, 4.0))
    assert (plain - guided).abs().max() > 1e-3


def test_averaged_weights_are_sampled(pool, trained):
    plain, averaged = (pool.run(sampled_latents, 1, trained, ParallelConfig(), 1.0, ema)[0] for ema in (None, "0.9"))
    assert 1e-3 < (plain - averaged).abs().max() < 10


def delivered(rank: int, load: Path) -> list[tuple[int, str, tuple[int, ...]]]:
    """Job: what this rank was given of three prompts on two replicas."""
    videos = []
    run = dataclasses.replace(configuration_of(load), parallel=ParallelConfig())
    run.training.global_batch_size = None
    config = SamplingConfig(load, sampling_steps=2, guidance_scale=1.0)
    sample(config, run, World.from_environment(), PROMPTS, videos.append)
    return [(video.number, video.prompt, tuple(video.frames_TCHW.shape)) for video in videos]


def test_replicas_take_turns(pool, trained):
    first, second = pool.run(delivered, 2, trained)
    assert [number for number, _, _ in first] == [0, 2] and [number for number, _, _ in second] == [1]
    assert [prompt for _, prompt, _ in [*first, *second]] == [PROMPTS[0], PROMPTS[2], PROMPTS[1]]
    assert {shape for _, _, shape in [*first, *second]} == {(9, 3, 32, 48)}


def run_tool(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "tools/sample_video.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_tool_writes_videos(trained, tmp_path):
    done = run_tool("--load", trained, "--prompt", *PROMPTS[:2], "--output", tmp_path, "--sampling-steps", 2)
    assert done.returncode == 0, done.stderr
    for number in range(2):
        frames, _ = read_video(tmp_path / f"{number:04d}.mp4")
        assert frames.shape == (9, 3, 32, 48)


def test_tool_refuses_with_every_mistake_named(trained, tmp_path):
    done = run_tool("--load", trained, "--sampling-steps", 0, "--tensor-model-parallel-size", 3, "--ema", 0.99)
    assert done.returncode == 2
    for flag in (
        "--sampling-steps 0",
        "--tensor-model-parallel-size 3",
        "--prompt: missing",
        "--ema 0.99: not in the checkpoint; accepted: 0.9",
    ):
        assert flag in done.stderr + done.stdout
    done = run_tool("--load", tmp_path, "--prompt", "x")
    assert done.returncode == 2 and "no complete checkpoint" in done.stderr + done.stdout

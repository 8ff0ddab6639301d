"""A checkpoint sampled under every kind of layout gives one video; a prompt that fails leaves the others alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.distributed import layouts
from tests.inference.jobs import TEXTS, config_of, errors_of, prompts, sampled, sampled_with_trouble
from tests.training.small import small_run
from vidtron import training
from vidtron.config.parallel import ParallelConfig
from vidtron.config.world import World
from vidtron.inference.run import sampled_run, splits_guidance
from vidtron.recipe.sampler import SamplerConfig

PARALLEL = {
    "TP2": ParallelConfig(tensor_model_parallel_size=2),
    "TP2+SP": ParallelConfig(tensor_model_parallel_size=2, sequence_parallel=True),
    "PP2": ParallelConfig(pipeline_model_parallel_size=2),
    "PP2 interleaved": ParallelConfig(pipeline_model_parallel_size=2, num_layers_per_virtual_pipeline_stage=1),
    "CP2": ParallelConfig(context_parallel_size=2),
}
SPLIT = {"split_guidance": "on"}
LAYOUTS = {
    **{name: (2, {"parallel": parallel}) for name, parallel in PARALLEL.items()},
    "DP2": (2, {"split_guidance": "off"}),
    "DP2 split": (2, SPLIT),
    "DP2 split x TP2": (4, {**SPLIT, "parallel": PARALLEL["TP2"]}),
    "DP2 split x PP2": (4, {**SPLIT, "parallel": PARALLEL["PP2"]}),
    "DP4 split": (4, SPLIT),
}
ALONE = World(size=1, rank=0, local_rank=0, has_cuda=False)


def latents_of(results) -> dict[int, torch.Tensor]:
    """Number of the prompt -> latents, of all ranks' videos."""
    assert all(failures == [] for _, failures in results)
    videos = [video for delivered, _ in results for video in delivered]
    assert len({video.prompt.number for video in videos}) == len(videos)
    return {video.prompt.number: video.latents_TCHW for video in videos}


def assert_same(results, expected: dict[int, torch.Tensor]) -> None:
    found = latents_of(results)
    assert sorted(found) == sorted(expected)
    for number, latents in found.items():
        torch.testing.assert_close(latents, expected[number], rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def alone(pool, trained) -> dict[int, torch.Tensor]:
    """Latents of the prompts on one rank."""
    found = latents_of(pool.run(sampled, 1, trained, prompts(), {}))
    assert all(latents.std() > 0.1 for latents in found.values()) and (found[0] - found[1]).abs().max() > 0.1
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_latents_are_the_same_under_every_layout(pool, trained, alone, layout):
    ranks, flags = LAYOUTS[layout]
    assert_same(pool.run(sampled, ranks, trained, prompts(), flags), alone)


@pytest.mark.parametrize("layout", ["TP2", "DP2 split"])
def test_added_noise_and_other_sizes_are_the_same_under_every_layout(pool, trained, layout):
    method = SamplerConfig(sampler="dpmpp-2m-sde", sampler_table="sat", guidance="dynamic")
    flags = {"method": method, "num_frames": 13, "height": 48, "width": 32}
    ranks, more = LAYOUTS[layout]
    expected = pool.run(sampled, 1, trained, prompts(1), flags)
    (video,) = expected[0][0]
    assert video.frames_TCHW.shape == (13, 3, 48, 32) and video.latents_TCHW.shape == (4, 16, 6, 4)
    assert_same(pool.run(sampled, ranks, trained, prompts(1), {**flags, **more}), latents_of(expected))


@pytest.mark.parametrize("layout", ["PP2", "DP2 split"])
def test_image_to_video_is_the_same_under_every_layout(pool, trained_on_images, pictures, layout):
    ranks, flags = LAYOUTS[layout]
    expected = latents_of(pool.run(sampled, 1, trained_on_images, prompts(2, pictures), {}))
    assert_same(pool.run(sampled, ranks, trained_on_images, prompts(2, pictures), flags), expected)
    other = latents_of(pool.run(sampled, 1, trained_on_images, prompts(1, pictures[::-1]), {}))
    assert (other[0] - expected[0]).abs().max() > 1e-2
    scaled = pool.run(sampled, 1, trained_on_images, prompts(1, pictures), {"image_latent_scale": "inverted"})
    assert (latents_of(scaled)[0] - expected[0]).abs().max() > 1e-2


def test_a_video_depends_on_seed_and_number_alone(pool, trained, alone):
    first, second = prompts(2)
    moved = replace(first, number=1), replace(first, seed=6), replace(first, number=7)
    assert_same(pool.run(sampled, 1, trained, [second], {}), {1: alone[1]})
    for prompt in moved:
        latents = latents_of(pool.run(sampled, 1, trained, [prompt], {}))[prompt.number]
        assert (latents - alone[0]).abs().max() > 0.1


def test_adapters_are_sampled_on_their_base(pool, shards, trained, alone, tmp_path):
    """The same from a checkpoint of everything and from one of adapters alone."""
    flags = {"load": trained, "finetune": True, "lora_rank": 2, "lr": 1e-2, "train_iters": 2}
    for name, only in (("whole", False), ("adapters", True)):
        training.run(layouts.small_run(shards, save=tmp_path / name, save_lora_only=only, **flags), ALONE)
    whole = latents_of(pool.run(sampled, 1, tmp_path / "whole", prompts(1), {}))
    assert_same(pool.run(sampled, 1, tmp_path / "adapters", prompts(1), {}), whole)
    assert (whole[0] - alone[0]).abs().max() > 1e-3


@pytest.mark.parametrize(
    "flags", [{"guidance_scale": 1.0}, {"ema": "0.9"}, {"method": SamplerConfig(guidance="dynamic")}]
)
def test_flags_change_the_video(pool, trained, alone, flags):
    latents = latents_of(pool.run(sampled, 1, trained, prompts(1), flags))[0]
    assert 1e-3 < (latents - alone[0]).abs().max() < 20


def test_a_negative_prompt_takes_the_null_text_s_place(pool, trained, alone):
    prompt = replace(prompts(1)[0], negative="blurred")
    latents = latents_of(pool.run(sampled, 1, trained, [prompt], {}))[0]
    assert (latents - alone[0]).abs().max() > 1e-3
    # Guided away from itself, a prompt is not guided at all.
    itself = latents_of(pool.run(sampled, 1, trained, [replace(prompt, negative=prompt.text)], {}))[0]
    plain = latents_of(pool.run(sampled, 1, trained, prompts(1), {"guidance_scale": 1.0}))[0]
    torch.testing.assert_close(itself, plain, rtol=0, atol=1e-4)


def test_replicas_take_turns(pool, trained):
    first, second = pool.run(sampled, 2, trained, prompts(3), {"split_guidance": "off", "sampling_steps": 1})
    assert [video.prompt.number for video in first[0]] == [0, 2]
    assert [video.prompt.number for video in second[0]] == [1]
    assert [video.prompt.text for video in [*first[0], *second[0]]] == [TEXTS[0], TEXTS[2], TEXTS[1]]
    assert {tuple(video.frames_TCHW.shape) for video in [*first[0], *second[0]]} == {(9, 3, 32, 48)}


@pytest.mark.parametrize("layout", ["TP2", "DP2", "DP2 split"])
def test_a_failed_prompt_does_not_stop_the_others(pool, trained, layout):
    ranks, flags = LAYOUTS[layout]
    wanted = [*prompts(3), replace(prompts(1)[0], number=3), replace(prompts(1)[0], number=4)]
    # Of two replicas that take turns the first one makes the first prompt, otherwise both ranks do.
    troubled = 0 if layout == "DP2" else 1
    results = pool.run(sampled_with_trouble, ranks, trained, wanted, {**flags, "sampling_steps": 1}, troubled)
    for _, failures, _ in results:
        assert failures == [
            (0, "RuntimeError: no such words"),
            (1, "ValueError: the latents are not finite"),
            (2, "OSError: disk full"),
        ]
    assert sorted(number for delivered, _, _ in results for number in delivered) == [3, 4]
    assert sorted(number for _, _, reported in results for number in reported) == [0, 1, 2]


@pytest.mark.parametrize(
    ("replicas", "count", "splits"),
    [(1, 1, False), (2, 1, True), (2, 2, False), (2, 3, True), (3, 1, False), (4, 2, True), (4, 4, False)],
)
def test_guidance_is_split_where_that_saves_turns(replicas, count, splits):
    assert splits_guidance(config_of(Path()), replicas, count) is splits
    assert not splits_guidance(config_of(Path(), guidance_scale=1.0), replicas, count)
    assert splits_guidance(config_of(Path(), split_guidance="on"), replicas, count)
    assert not splits_guidance(config_of(Path(), split_guidance="off"), replicas, count)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"num_frames": 8}, "--num-frames 8: does not fit the autoencoder; accepted: 4k+1, the nearest 5 and 9"),
        ({"height": 40}, "--height 40: accepted: multiples of 16 pixels"),
        ({"sampling_steps": 0}, "--sampling-steps 0: accepted: 1 or more"),
        ({"ema": "0.99"}, "--ema 0.99: not in the checkpoint; accepted: 0.9"),
        ({"fps": 0.0}, "--fps 0; accepted: more than 0"),
        ({"vae_tiling": True}, "--vae-tiling: the built-in autoencoder has no tiles; accepted: with --vae-path"),
        ({"vae_frames_at_once": 3}, "--vae-frames-at-once 3; accepted: even numbers from 2 on"),
        ({"split_guidance": "on"}, "--split-guidance on: 1 replicas and --guidance-scale 4"),
        ({"vae_path": Path("nowhere")}, "--vae-path nowhere: no such folder"),
    ],
)
def test_mistakes_are_named(trained, flags, message):
    errors = errors_of(ALONE, prompts(), config_of(trained, **flags))
    assert len(errors) == 1 and errors[0].startswith(message)


def test_images_and_models_must_match(trained, trained_on_images, pictures):
    errors = errors_of(ALONE, prompts(2, pictures), config_of(trained))
    assert len(errors) == 2 and all("makes videos from text alone" in error for error in errors)
    errors = errors_of(ALONE, prompts(), config_of(trained_on_images))
    assert len(errors) == 2 and all("the model makes videos from images" in error for error in errors)


def test_learned_positions_fix_the_size(trained, monkeypatch):
    run = small_run(in_channels=32, learned_position_grid=(3, 2, 3))
    monkeypatch.setattr("vidtron.inference.weights.configuration_of", lambda config: run)
    assert errors_of(ALONE, [], config_of(trained, num_frames=5)) == []
    (error,) = errors_of(ALONE, [], config_of(trained, num_frames=9, height=48))
    assert error.startswith("--height 48 --width 48 --num-frames 9: 3 x 3 x 3 tokens")
    assert error.endswith("accepted: --height 32 --width 48 and at most --num-frames 9")


def test_training_s_precision_flags_do_not_bind_sampling(trained, monkeypatch):
    run = small_run(recompute_granularity="full", recompute_method="block", recompute_num_layers=2, bf16=True)
    run.precision.fp8_format, run.precision.transformer_impl = "hybrid", "transformer_engine"
    monkeypatch.setattr("vidtron.inference.weights.configuration_of", lambda config: run)
    config = config_of(trained)
    assert errors_of(ALONE, prompts(), config) == []
    assert sampled_run(config, ALONE).precision.bf16

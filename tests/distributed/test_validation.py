"""Validation on the layout of the training: losses over the noise level and sampled videos.

The training goes on as without it, bit by bit.
"""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.distributed.layouts import small_run, train
from tests.distributed.test_ema import LAYOUTS
from tests.shards import write_shards
from vidtron.checkpoint import latest, read_full_state
from vidtron.config.world import World
from vidtron.inference.config import SamplingConfig
from vidtron.inference.prompts import Prompt
from vidtron.inference.run import load_sampler
from vidtron.inference.video_io import psnr, read_video, write_video
from vidtron.parallel import initialized
from vidtron.training.evaluate import EVALUATION_SEED

PROMPTS = ["moving colours, number 1", "moving colours, number 2", "nothing at all"]
STEPS, GUIDANCE = 3, 2.0
VALIDATION = {
    "eval_interval": 2, "eval_iters": 2, "eval_sigma_bins": 3, "validation_prompts": PROMPTS[:2],
    "validation_sampling_steps": STEPS, "validation_guidance_scale": GUIDANCE,
}  # fmt: skip
AVERAGES = {"ema_decay": [0.9, 0.1]}
CASES = ["TP2", "DP2", "DP2 x PP2 interleaved overlapped", "DP2 x TP2 bf16 distributed optimizer"]


@pytest.fixture(scope="module")
def valid_flags(tmp_path_factory):
    folder = tmp_path_factory.mktemp("valid")
    (folder / "prompts.txt").write_text(f"\n{PROMPTS[2]}\n", encoding="utf-8")
    shards = write_shards(folder / "shards", clips=3, first_seed=100)
    return {**VALIDATION, "valid_data_path": [str(shards)], "validation_prompts_file": folder / "prompts.txt"}


def rows(folder: Path, kind: str) -> list[dict]:
    return [row for row in map(json.loads, (folder / "metrics.jsonl").open()) if row["kind"] == kind]


@pytest.fixture(scope="module")
def one_rank(pool, shards, valid_flags, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    pool.run(train, 1, small_run(shards, save=folder, **AVERAGES, **valid_flags))
    return folder


def expected_videos(rank: int, run, load: Path, folder: Path) -> None:
    """Job: sample the prompts with the first average of a checkpoint."""
    sampling = SamplingConfig(load, sampling_steps=STEPS, guidance_scale=GUIDANCE, ema="0.9")
    with initialized(run, World.from_environment()) as groups:
        sampler = load_sampler(sampling, run, groups)
        for number, text in enumerate(PROMPTS):
            prompt = Prompt(text, number, EVALUATION_SEED)
            latents = sampler.latents(prompt, sampler.conditions(prompt))
            write_video(folder / f"{number:04d}.mp4", sampler.decode(latents), sampler.fps)


@pytest.mark.parametrize("layout", CASES)
def test_validation(pool, shards, tmp_path, valid_flags, one_rank, layout):
    ranks, flags = LAYOUTS[layout]
    flags = {**flags, **AVERAGES}
    logging = {"tensorboard": True, "wandb_project": "p", "wandb_mode": "offline"} if layout in CASES[:2] else {}
    plain = pool.run(train, ranks, small_run(shards, save=tmp_path / "plain", **flags))[0]
    folder = tmp_path / "run"
    result = pool.run(train, ranks, small_run(shards, save=folder, **flags, **valid_flags, **logging))[0]

    assert (result.losses, result.gradient_norms) == (plain.losses, plain.gradient_norms)
    weights, expected = (read_full_state(latest(tmp_path / name), optimizer=True) for name in ("run", "plain"))
    assert weights.keys() == expected.keys() and all(torch.equal(weights[key], expected[key]) for key in weights)
    weights, expected = (read_full_state(latest(tmp_path / name), average="0.1") for name in ("run", "plain"))
    assert all(torch.equal(weights[key], expected[key]) for key in weights)

    tolerance = 2e-2 if "bf16" in layout else 1e-5
    evaluations, references = rows(folder, "eval"), rows(one_rank, "eval")
    assert [(row["iteration"], row["weights"]) for row in evaluations] == [
        (iteration, weights) for iteration in (2, 4) for weights in ("model", "0.9", "0.1")
    ]
    for row, reference in zip(evaluations, references, strict=True):
        assert row["loss"] == pytest.approx(reference["loss"], rel=tolerance)
        assert row["sigma_losses"] == pytest.approx(reference["sigma_losses"], rel=tolerance)
        assert row["sigma_edges"] == reference["sigma_edges"]
    assert len({row["loss"] for row in evaluations}) == 6
    assert list(result.evaluations.items()) == [(r["iteration"], r["loss"]) for r in evaluations[::3]]

    sampled = rows(folder, "sample")
    assert [(row["iteration"], row["prompt"], row["weights"]) for row in sampled] == [
        (iteration, prompt, "0.9") for iteration in (2, 4) for prompt in PROMPTS
    ]
    assert len(list((folder / "samples").rglob("*.mp4"))) == 2 * len(PROMPTS)
    for row in sampled:
        assert read_video(folder / row["file"])[0].shape == (9, 3, 32, 48)
    if logging:
        assert_logged(folder)
    if not ("bf16" in layout or logging):
        pool.run(expected_videos, 1, small_run(shards), latest(folder), tmp_path)
        for number, row in enumerate(sampled[3:]):
            frames, _ = read_video(folder / row["file"])
            assert psnr(frames, read_video(tmp_path / f"{number:04d}.mp4")[0]) > 45
            assert psnr(frames, read_video(folder / sampled[number]["file"])[0]) < 40


def assert_logged(folder: Path) -> None:
    """In tensorboard and wandb as well."""
    videos = list((folder / "wandb").glob("offline-run-*/files/media/videos/sample/*.mp4"))
    assert len(videos) == 2 * len(PROMPTS)
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    accumulator = events.EventAccumulator(str(folder / "tensorboard"))
    accumulator.Reload()
    tags = accumulator.Tags()
    assert tags["images"] == [f"sample/{number:04d}" for number in range(len(PROMPTS))]
    image = accumulator.Images("sample/0000")[0]
    assert (image.width, image.height) == (4 * 48, 2 * 32)
    assert {"eval/loss", "eval_0.9/loss", "eval_0.1/loss"} <= set(tags["scalars"])
    curves = [tag for tag in tags["scalars"] if tag.startswith("eval_0.9/loss_sigma_")]
    assert len(curves) == 3 and all(len(accumulator.Scalars(tag)) == 2 for tag in curves)
    row = next(row for row in rows(folder, "eval") if row["weights"] == "0.9")
    assert sorted(accumulator.Scalars(tag)[0].value for tag in curves) == pytest.approx(sorted(row["sigma_losses"]))


def test_an_image_to_video_run_samples_from_images(pool, shards, tmp_path):
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        Image.new("RGB", (20, 20), colour).save(tmp_path / f"{name}.png")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "c", "image": "blue.png"}')
    flags = {**VALIDATION, "eval_interval": 4, "validation_prompts_file": tmp_path / "prompts.jsonl"}
    model = {"in_channels": 32, "validation_images": [tmp_path / "red.png", tmp_path / "blue.png"]}
    for ranks, layout in ((1, {}), (2, {"tensor_model_parallel_size": 2})):
        pool.run(train, ranks, small_run(shards, save=tmp_path / str(ranks), **flags, **model, **layout))
    sampled, references = rows(tmp_path / "2", "sample"), rows(tmp_path / "1", "sample")
    assert [row["prompt"] for row in sampled] == [*PROMPTS[:2], "c"]
    for row, reference in zip(sampled, references, strict=True):
        frames, _ = read_video(tmp_path / "2" / row["file"])
        assert psnr(frames, read_video(tmp_path / "1" / reference["file"])[0]) > 45

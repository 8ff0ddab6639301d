"""Videos with given frames, and videos of several clips."""

import json
from pathlib import Path

import pytest
import torch

from tests.inference.jobs import config_of, errors_of, prompts, sampled
from tests.inference.test_run import ALONE, LAYOUTS, assert_same, latents_of
from tests.tools.test_sample_video import run_tool
from vidtron.data.decoding.pixels import pixels_CFHW, to_uint8
from vidtron.encoders.space_time import SpaceTimeTransform
from vidtron.inference.config import GivenFramesConfig
from vidtron.inference.image import read_image
from vidtron.inference.prompts import Prompt
from vidtron.inference.video_io import read_video, write_video
from vidtron.recipe.sampler import SamplerConfig

HEIGHT, WIDTH = 32, 48
LOOPS = GivenFramesConfig(loop=3, condition_frames=2)


def encoded(video_CFHW, scale=1.0):
    return SpaceTimeTransform().encode(video_CFHW).mean_CTHW.permute(1, 0, 2, 3) * scale


def video_of(pool, load, given, prompt=None, ranks=1, **flags):
    """(the video, results of all ranks)."""
    results = pool.run(sampled, ranks, load, [prompt or prompts(1)[0]], {"given": given, **flags})
    latents_of(results)  # no failures
    return next(video for delivered, _ in results for video in delivered), results


@pytest.mark.parametrize("sampler", ["ddim", "euler"])
def test_an_image_is_the_first_frame_and_the_others_follow_it(pool, trained, pictures, sampler):
    videos = []
    for picture in pictures:
        given = GivenFramesConfig(reference=[picture], mask_strategy="0")
        videos.append(video_of(pool, trained, given, method=SamplerConfig(sampler=sampler))[0])
        image = encoded(read_image(picture, HEIGHT, WIDTH))
        torch.testing.assert_close(videos[-1].latents_TCHW[:1], image)
    assert (videos[0].latents_TCHW[1:] - videos[1].latents_TCHW[1:]).abs().max() > 1e-2


def test_a_video_is_given_wholly_or_for_a_part_of_the_way(pool, trained, tmp_path):
    frames = torch.randint(0, 256, (1, 3, HEIGHT, WIDTH), dtype=torch.uint8).expand(12, -1, -1, -1).contiguous()
    write_video(tmp_path / "v.mp4", frames, 8)
    reference = encoded(pixels_CFHW(read_video(tmp_path / "v.mp4")[0][:9]))
    distances = []
    for edit in ("0", "0.4"):
        given = GivenFramesConfig(reference=[tmp_path / "v.mp4"], mask_strategy=f"0,0,-3,0,3,{edit}")
        latents = video_of(pool, trained, given, sampling_steps=5)[0].latents_TCHW
        distances.append((latents - reference).square().mean().item())
    assert distances[0] < 1e-6 < 1e-2 < distances[1]


def test_each_clip_goes_on_from_the_last(pool, trained):
    video, _ = video_of(pool, trained, LOOPS)
    overlap, frames = 5, 9  # pixel frames of 2 latent frames, and of a clip
    assert video.frames_TCHW.shape == (3 * (frames - overlap) + overlap, 3, HEIGHT, WIDTH)
    assert video.latents_TCHW.shape == (3, 3, 16, 4, 6)
    for clip in (1, 2):
        decoded = SpaceTimeTransform().decode(video.latents_TCHW[clip - 1].transpose(0, 1)).clamp(-1, 1)
        torch.testing.assert_close(video.latents_TCHW[clip, :2], encoded(decoded[:, -overlap:]))
        assert torch.equal(video.frames_TCHW[4 * clip + overlap - 4 :][:4], to_uint8(decoded)[-4:])
    alone = latents_of(pool.run(sampled, 1, trained, prompts(1), {}))[0]
    torch.testing.assert_close(video.latents_TCHW[0], alone)  # no frame of the first clip is given


@pytest.mark.parametrize("layout", ["TP2+SP", "PP2 interleaved", "CP2", "DP2 split"])
def test_long_videos_are_the_same_under_every_layout(pool, trained, layout):
    expected, _ = video_of(pool, trained, LOOPS)
    ranks, flags = LAYOUTS[layout]
    _, results = video_of(pool, trained, LOOPS, ranks=ranks, **flags)
    assert_same(results, {0: expected.latents_TCHW})


def test_prompts_change_with_the_clips(pool, trained):
    same = video_of(pool, trained, LOOPS, Prompt("moving colours", 0, 5))[0].latents_TCHW
    changing = video_of(pool, trained, LOOPS, Prompt("|0|moving colours|2|nothing", 0, 5))[0].latents_TCHW
    torch.testing.assert_close(changing[:2], same[:2])
    assert (changing[2, 2:] - same[2, 2:]).abs().max() > 1e-3


def test_frames_that_pad_a_token_go_with_the_first(pool, trained_on_images, pictures):
    """3 latent frames in tokens of 2: the first is there twice."""
    given = GivenFramesConfig(reference=[pictures[1]], mask_strategy="0")
    (prompt,) = prompts(1, pictures)
    latents = video_of(pool, trained_on_images, given, prompt)[0].latents_TCHW
    image = encoded(read_image(pictures[1], HEIGHT, WIDTH), 0.7)
    torch.testing.assert_close(latents[:2], image.expand(2, -1, -1, -1))
    half = GivenFramesConfig(reference=[pictures[1]], mask_strategy="0,0,0,1")
    ((videos, (failure,)),) = pool.run(sampled, 1, trained_on_images, [prompt], {"given": half})
    assert not videos and "are a part of a token (2 latent frames" in failure.reason


def test_the_json_makes_the_video_again(trained, pictures, tmp_path):
    arguments = ["--load", trained, "--prompt", "a lake", "--sampling-steps", 2, "--write-latents", "--output"]
    more = ["--reference", *pictures, "--mask-strategy=0;1,1,0,-1", "--loop", 2, "--condition-frames", 1]
    status, _, err = run_tool(*arguments, tmp_path / "a", *more)
    assert status == 0, err
    record = json.loads((tmp_path / "a" / "0000-a-lake-1234.json").read_text())
    assert record["loop"] == 2 and record["reference"] == [str(path) for path in pictures]
    status, _, err = run_tool(*record["command"][2:], "--output", tmp_path / "b", "--write-latents")
    assert status == 0, err
    first, again = (torch.load(tmp_path / folder / "0000-a-lake-1234.pt") for folder in "ab")
    assert torch.equal(first, again) and first.shape == (2, 3, 16, 4, 6)
    torch.testing.assert_close(first[1, 2:], encoded(read_image(pictures[1], HEIGHT, WIDTH)))
    assert read_video(tmp_path / "b" / "0000-a-lake-1234.mp4")[0].shape == (17, 3, HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"loop": 0}, "--loop 0; accepted: 1 or more"),
        ({"loop": 2, "condition_frames": 3}, "--condition-frames 3; accepted: 1 to 2"),
        ({"reference": ["no.png"], "mask_strategy": "0"}, "--reference no.png: no such file"),
        ({"mask_strategy": "0"}, "--mask-strategy: GivenFrames(loop=0, reference=0"),
        ({"mask_strategy": "x"}, "--mask-strategy 'x': accepted: 1 to 6 numbers loop,"),
        ({"mask_strategy": "1"}, "--mask-strategy: GivenFrames(loop=1"),
    ],
)
def test_mistakes_are_named(trained, given, message):
    (error,) = errors_of(ALONE, prompts(), config_of(trained, given=GivenFramesConfig(**_paths(given))))
    assert error.startswith(message)


def _paths(given):
    return {**given, **({"reference": [Path(name) for name in given["reference"]]} if "reference" in given else {})}


def test_what_does_not_go_together_is_named(trained, trained_on_images, pictures):
    (error,) = errors_of(ALONE, prompts(), config_of(trained, given=GivenFramesConfig(reference=pictures)))
    assert error.startswith("--reference: needs --mask-strategy")
    (error,) = errors_of(ALONE, prompts(), config_of(trained, given=LOOPS, method=SamplerConfig(sampler="heun")))
    assert error.startswith("--sampler heun with --schedule zero-snr: cannot keep given frames; accepted: ddim, euler")
    (error,) = errors_of(ALONE, [Prompt("|0|a|7|b", 0, 5)], config_of(trained, given=LOOPS))
    assert error.startswith("--prompt: prompt '|0|a|7|b' of 3 clips; accepted:")
    two = GivenFramesConfig(loop=2, condition_frames=1)
    (error,) = errors_of(ALONE, prompts(1, pictures), config_of(trained_on_images, given=two))
    assert error.startswith("--loop 2: the model makes videos from images")

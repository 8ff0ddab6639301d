"""tools/sample_video.py: its files, its exit status, and that a video can be made again from the JSON beside it."""

import contextlib
import io
import json
import runpy
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from PIL import Image

from tests.inference.conftest import pictures, trained, trained_on_images  # noqa: F401
from vidtron.inference.prompts import Prompt
from vidtron.inference.video_files import stem_of
from vidtron.inference.video_io import read_video

ROOT = Path(__file__).parents[2]
FAST = ("--sampling-steps", "2")


def run_tool(*arguments: object) -> tuple[int, str, str]:
    """(exit status, stdout, stderr) of the tool in this process."""
    out, err = io.StringIO(), io.StringIO()
    argv = ["tools/sample_video.py", *map(str, arguments)]
    with patch.object(sys, "argv", argv), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_path(str(ROOT / argv[0]), run_name="__main__")
            status = 0
        except SystemExit as exit_:
            status = exit_.code
    return status, out.getvalue(), err.getvalue()


def tool_job(rank: int, arguments: list[object]) -> tuple[int, str, str]:
    """Job: the tool on each rank."""
    return run_tool(*arguments)


def test_frames_latents_and_names(trained, tmp_path):  # noqa: F811
    status, out, err = run_tool(
        "--load", trained, "--prompt", "A lake, at NIGHT!", "street " * 40, "--output", tmp_path, "--seed", 9, *FAST,
        "--write-frames", "--write-latents", "--num-frames", 5, "--height", 48, "--fps", 12,
    )  # fmt: skip
    assert status == 0, err
    long = f"0001-{'street-' * 6}street-9"
    stems = ["0000-a-lake-at-night-9", long]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        stem + ending for stem in stems for ending in ("", ".mp4", ".json", ".pt")
    )
    for stem in stems:
        assert str(tmp_path / f"{stem}.mp4") in out
        frames, fps = read_video(tmp_path / f"{stem}.mp4")
        assert frames.shape == (5, 3, 48, 48) and fps == 12
        latents = torch.load(tmp_path / f"{stem}.pt")
        assert latents.shape == (2, 16, 6, 6) and latents.dtype == torch.float32
        pngs = [Image.open(tmp_path / stem / f"{number:04d}.png") for number in range(5)]
        assert all(png.size == (48, 48) for png in pngs) and len(list((tmp_path / stem).iterdir())) == 5
        # The video is of these frames, lossily.
        png = torch.tensor(list(pngs[0].convert("L").getdata())).float()
        assert (png - frames[0].float().mean(0).flatten()).abs().mean() < 30


def test_the_json_makes_the_video_again(trained_on_images, pictures, tmp_path):  # noqa: F811
    lines = [
        {"prompt": "first", "image": str(pictures[0])},
        {"prompt": '--second "quoted"', "image": str(pictures[1]), "seed": 77, "negative_prompt": ""},
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    status, _, err = run_tool(
        "--load", trained_on_images, "--prompts-file", tmp_path / "p.jsonl", "--output", tmp_path / "a",
        "--write-latents", "--sampler", "dpmpp-2m-sde", "--guidance", "dynamic", *FAST, "--width", 32,
        "--image-latent-scale", "unscaled", "--first-number", 3,
    )  # fmt: skip
    assert status == 0, err
    stem = "0004-second-quoted-77"
    record = json.loads((tmp_path / "a" / f"{stem}.json").read_text())
    assert {key: record[key] for key in ("prompt", "number", "seed", "negative_prompt", "width", "fps")} == {
        "prompt": '--second "quoted"', "number": 4, "seed": 77, "negative_prompt": "", "width": 32, "fps": 8.0,
    }  # fmt: skip
    assert record["load"].endswith("iter_0000002") and Path(record["load"]).is_absolute()
    assert record["files"] == {"video": f"{stem}.mp4", "latents": f"{stem}.pt"}
    assert len(record["image_sha256"]) == 64 and record["layout"]["ranks"] == 1
    status, _, err = run_tool(*record["command"][2:], "--output", tmp_path / "b", "--write-latents")
    assert status == 0, err
    again = torch.load(tmp_path / "b" / f"{stem}.pt")
    assert torch.equal(again, torch.load(tmp_path / "a" / f"{stem}.pt")) and again.std() > 0.1
    assert (tmp_path / "a" / f"{stem}.mp4").read_bytes() == (tmp_path / "b" / f"{stem}.mp4").read_bytes()
    other = json.loads((tmp_path / "b" / f"{stem}.json").read_text())
    assert {**other, "files": None} == {**record, "files": None}


@pytest.mark.parametrize("flags", [(), ("--tensor-model-parallel-size", 2), ("--split-guidance", "on")])
def test_a_failed_prompt_is_reported_at_the_end(pool, trained_on_images, pictures, tmp_path, flags):  # noqa: F811
    (tmp_path / "no.png").write_text("not a picture")
    images = [pictures[0], tmp_path / "no.png", pictures[1], tmp_path / "nothing.png"]
    arguments = ["--load", trained_on_images, "--prompt", *"abcd", "--image", *images, "--output", tmp_path / "out"]
    ranks = 1 if not flags else 2
    results = pool.run(tool_job, ranks, [*arguments, *FAST, *flags])
    assert all(status == 1 for status, _, _ in results)
    err = "".join(err for _, _, err in results)
    assert "failed: prompt 1 ('b'): UnidentifiedImageError:" in err
    assert "failed: prompt 3 ('d'): FileNotFoundError:" in err
    assert err.count("2 of 4 prompts failed: 1, 3") == 1 and err.count("failed: prompt") == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"{stem}-1234.{ending}" for stem in ("0000-a", "0002-c") for ending in ("json", "mp4")
    ]


def test_a_video_that_cannot_be_written_is_a_failed_prompt(trained, tmp_path):  # noqa: F811
    (tmp_path / "file").write_text("")
    status, _, err = run_tool("--load", trained, "--prompt", "a", "--output", tmp_path / "file", *FAST)
    assert status == 2 and f"--output {tmp_path / 'file'}: not a folder" in err
    (tmp_path / "out" / "0000-a-1234.mp4").mkdir(parents=True)
    status, _, err = run_tool("--load", trained, "--prompt", "a", "--output", tmp_path / "out", *FAST)
    assert status == 1 and "failed: prompt 0 ('a'): " in err and "1 of 1 prompts failed: 0" in err


def test_every_mistake_is_named_in_a_process_of_its_own(trained, tmp_path):  # noqa: F811
    command = [
        sys.executable, "tools/sample_video.py", "--load", str(trained), "--sampling-steps", "0",
        "--tensor-model-parallel-size", "3", "--ema", "0.99", "--first-number", "-1",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    for message in (
        "--sampling-steps 0",
        "--tensor-model-parallel-size 3",
        "--prompt: missing",
        "--ema 0.99: not in the checkpoint; accepted: 0.9",
        "--first-number -1; accepted: 0 to 1,000,000,000",
    ):
        assert f"error: {message}" in done.stderr, message


def test_mistakes_before_the_model(trained, tmp_path):  # noqa: F811
    status, _, err = run_tool("--load", tmp_path, "--prompt", "x")
    assert status == 2 and "no complete checkpoint" in err
    (tmp_path / "p.jsonl").write_text('{"prompt": 1}\n{"prompt": 2}')
    status, _, err = run_tool("--load", trained, "--prompts-file", tmp_path / "p.jsonl")
    assert status == 2 and err.count("error: --prompts-file") == 2


@pytest.mark.parametrize(
    ("text", "stem"),
    [
        ("A bicycle -- on a street.", "0002-a-bicycle-on-a-street-5"),
        ("../../etc/passwd", "0002-etc-passwd-5"),
        ("…!", "0002-video-5"),
        ("Été à Ｔōkyō 東京", "0002-été-à-tōkyō-東京-5"),
    ],
)
def test_names(text, stem):
    assert stem_of(Prompt(text, 2, 5)) == stem

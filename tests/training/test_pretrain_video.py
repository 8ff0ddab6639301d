"""The entry point: what it refuses, and that it runs as users start it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import pretrain_video

ROOT = Path(__file__).parents[2]
TINY = ["--model", "cogvideox-tiny"]


def refused(capsys, *arguments: str) -> list[str]:
    """Messages of a refused command line."""
    with pytest.raises(SystemExit) as exit_info:
        pretrain_video.main([*TINY, *arguments])
    assert exit_info.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    return [line.removeprefix("error: ") for line in lines]


def test_prompts_that_cannot_be_sampled(capsys, tmp_path):
    flags = ("--data-path", str(tmp_path), "--save", str(tmp_path / "run"), "--eval-interval", "5")
    (tmp_path / "empty.txt").write_text("\n \n")
    for arguments, message in (
        (("--validation-prompts-file", str(tmp_path / "none.txt")), "No such file"),
        (("--validation-prompts-file", str(tmp_path / "empty.txt")), "no prompts in it; accepted: a text file"),
        (("--validation-sampling-steps", "1000"), "1000 sampling steps; accepted: 1 to 999"),
        (("--validation-prompts", "a", "b", "--in-channels", "32"), "--validation-images: prompt 1 ('b') has none"),
        (("--validation-prompts", "a", "--validation-images", "no.png"), "the model makes videos from text alone"),
        (
            ("--validation-prompts", "a", "--in-channels", "32", "--validation-images", "no.png"),
            "--validation-images no.png: no such file",
        ),
    ):
        assert any(message in error for error in refused(capsys, *flags, *arguments))


def test_everything_is_named_at_once(capsys, tmp_path):
    errors = refused(
        capsys, "--height", "100", "--tensor-model-parallel-size", "3", "--train-iters", "0",
        "--eval-interval", "5", "--load", str(tmp_path / "nowhere"), "--data-path", str(tmp_path / "nothing"),
    )  # fmt: skip
    starts = (
        "--height 100",
        "--tensor-model-parallel-size 3",
        "--train-iters 0",
        "--eval-interval 5",
        "--load",
        "--data-path",
    )
    for start in starts:
        assert any(error.startswith(start) for error in errors), (start, errors)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--data-path: missing"),
        (["--bf16", "--fp8-format", "hybrid"], "--fp8-format hybrid needs"),
        (["--overlap-param-gather"], "--overlap-param-gather needs --use-distributed-optimizer"),
        (["--optimizer", "sgd", "--use-distributed-optimizer"], "--use-distributed-optimizer"),
        (["--micro-batch-size", "2", "--global-batch-size", "3"], "--global-batch-size 3; accepted: multiples of 2"),
        (["--rampup-batch-size", "4", "2", "10", "--global-batch-size", "4"], "--rampup-batch-size 4 2 10"),
        (["--num-frames", "16"], "--num-frames 16"),
        (["--save-interval", "5"], "--save-interval"),
    ],
)
def test_bad_combinations(capsys, arguments, message):
    errors = refused(capsys, *arguments)
    assert any(error.startswith(message) for error in errors), errors


def test_a_run_folder_is_not_overwritten(capsys, shards, tmp_path):
    arguments = ["--data-path", str(shards), "--train-iters", "1", "--lr-warmup-iters", "0"]
    arguments += ["--save", str(tmp_path), "--no-tensorboard"]
    pretrain_video.main([*TINY, *arguments])
    capsys.readouterr()
    (error,) = refused(capsys, *arguments)
    assert error.startswith(f"--save {tmp_path}: holds checkpoints of another run")
    pretrain_video.main([*TINY, *arguments, "--overwrite"])


@pytest.mark.slow
def test_torchrun(shards, tmp_path):
    """The command of the README."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "pretrain_video.py",
        *TINY, "--data-path", str(shards), "--tensor-model-parallel-size", "2", "--sequence-parallel",
        "--train-iters", "20", "--save", str(tmp_path / "run"),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == list(range(1, 21))
    assert done.stdout.count("step 20/20") == 1


@pytest.mark.slow
def test_status_of_a_refusal(tmp_path):
    command = [sys.executable, "pretrain_video.py", *TINY, "--height", "100"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "error: --height 100" in done.stderr
    assert "Traceback" not in done.stderr

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


def test_more_than_the_machine_has_is_refused_with_the_number(capsys, shards):
    for arguments in (
        ("--num-layers", "1000", "--hidden-size", "65536"),
        ("--height", "16384", "--width", "16384", "--num-frames", "9997"),
        ("--micro-batch-size", "65536", "--hidden-size", "4096"),
    ):
        (error,) = refused(capsys, "--data-path", str(shards), *arguments)
        assert error.startswith("--model cogvideox-tiny: needs at least ") and "GiB on a rank (weights" in error


@pytest.mark.parametrize(
    "arguments",
    [("--num-layers", "1000000"), ("--height", "64000"), ("--num-frames", "100001"), ("--lora-rank", "100000"),
     ("--micro-batch-size", "1000000"), ("--num-workers", "1000000"), ("--hidden-size", "9" * 20),
     ("--seed", "1" + "0" * 20), ("--scale-factor", "1e300"), ("--data-cache-gib", "1e300"), ("--patch-size", "-1"),
     ("--patch-size-t", "0"), ("--patch-size", "0"), ("--final-norm-eps", "nan"), ("--init-method-std", "-1"),
     ("--spatial-interpolation", "0"), ("--shuffle-slice", "1" + "0" * 20), ("--save", "/proc/run"),
     ("--distributed-timeout-minutes", "1e300")],
    ids=" ".join,
)  # fmt: skip
def test_extreme_values_are_refused_by_name(capsys, shards, arguments):
    errors = refused(capsys, "--data-path", str(shards), *arguments)
    assert errors[0].startswith(f"{arguments[0]} ") and "accepted: " in errors[0]


NAMES = (
    "save load data-path latent-cache vae-path text-encoder-path lora-load validation-prompts-file bucket-config "
    "data-cache-path"
)


@pytest.mark.parametrize("flag", NAMES.split())
@pytest.mark.parametrize("name", ["x" * 300, "a\0", "\ud800"], ids=["long", "null", "surrogate"])
def test_names_that_no_file_can_have(capsys, flag, name):
    errors = refused(capsys, "--data-path", "x", f"--{flag}", name)
    assert len(errors) == 1 and errors[0].startswith(f"--{flag} ")


def test_a_wrong_environment(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "x")
    assert refused(capsys) == ["RANK=x in the environment; accepted: 0 to 1,000,000, or unset"]


def test_a_predicted_variance_is_trained_resumed_and_sampled(capsys, shards, tmp_path):
    """From the command line, of a text-to-video and of an image-to-video network."""
    run = tmp_path / "run"
    variance = ["--predicted-variance", "learned", "--schedule", "ddpm-linear", "--parameterization", "epsilon"]
    arguments = ["--data-path", str(shards), "--save", str(run), "--no-tensorboard", *variance]
    pretrain_video.main([*TINY, *arguments, "--train-iters", "2"])
    pretrain_video.main([*TINY, *arguments, "--train-iters", "3", "--load", str(run)])
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [1, 2, 3]
    command = [sys.executable, "tools/sample_video.py", "--load", str(run), "--prompt", "a", "--sampling-steps", "2",
               "--sampler", "ancestral", "--output", str(tmp_path / "videos")]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "videos").glob("*.mp4"))
    image = ["--in-channels", "32", "--out-channels", "32", "--latent-channels", "16", "--train-iters", "1"]
    pretrain_video.main([*TINY, "--data-path", str(shards), *variance, *image])
    capsys.readouterr()
    (error,) = refused(capsys, "--data-path", str(shards), *variance, "--out-channels", "16")
    assert error.startswith("--out-channels 16 with --predicted-variance learned: latents have 16 channels")
    (error,) = refused(capsys, "--data-path", str(shards), "--out-channels", "32")
    assert error.endswith("accepted: 16")


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

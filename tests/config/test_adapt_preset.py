"""A preset's default gives way to what is asked, and says so; what is given does not."""

from pathlib import Path

import pytest

from vidtron.config.check import check
from vidtron.config.cli import parse
from vidtron.config.run import RunConfig
from vidtron.config.world import World
from vidtron.data.checks_numbers import check_numbers
from vidtron.models.registry import preset, preset_names
from vidtron.recipe.check import check as check_recipe

WORLD = World(size=1, rank=0, local_rank=0, has_cuda=False)
FLOW = "--schedule flow --parameterization flow"


def parsed(command: str) -> RunConfig:
    return parse(["--model", *command.split()], preset, preset_names())


@pytest.mark.parametrize(
    ("command", "field", "value"),
    [
        ("cogvideox-tiny --train-iters 5", "optimizer.lr_warmup_iters", 4),
        ("cogvideox-tiny --train-iters 1", "optimizer.lr_warmup_iters", 0),
        ("cogvideox-tiny --lr-decay-iters 7", "optimizer.lr_warmup_iters", 6),
        ("cogvideox-tiny --lr-warmup-fraction 0.1", "optimizer.lr_warmup_iters", 0),
        (f"cogvideox-2b {FLOW}", "objective.noise_shift", 1.0),
        ("cogvideox-5b --frame-interval 2", "data.fps", None),
        ("cogvideox-5b --bucket-rule opensora --bucket-config b.yaml", "data.fps", None),
        (
            "cogvideox-tiny --schedule ddpm-linear --parameterization epsilon --predicted-variance learned",
            "network.out_channels",
            32,
        ),
        ("cogvideox-5b-i2v --predicted-variance ignored", "network.latent_channels", 16),
    ],
)
def test_the_preset_gives_way(command: str, field: str, value: object, capsys: pytest.CaptureFixture):
    config = parsed(command)
    section, name = field.split(".")
    assert getattr(getattr(config, section), name) == value
    lines = capsys.readouterr().err.splitlines()
    flag = f"--{name.replace('_', '-')}"
    told = [line for line in lines if line.startswith(f"note: {flag} is ")]
    assert len(told) == 1 and f"instead of {config.model}'s" in told[0]
    assert [*check(config, WORLD), *check_recipe(config, WORLD), *check_numbers(config)] == []


@pytest.mark.parametrize(
    ("command", "start"),
    [
        ("cogvideox-tiny --train-iters 5 --lr-warmup-iters 10", "--lr-warmup-iters 10; accepted: less than"),
        ("cogvideox-tiny --lr-warmup-iters 3 --lr-warmup-fraction 0.1", "--lr-warmup-fraction 0.1"),
        (f"cogvideox-2b {FLOW} --noise-shift 3", "--noise-shift: needs"),
        ("cogvideox-5b --frame-interval 2 --fps 8", "--frame-interval 2 with --fps"),
    ],
)
def test_what_is_given_is_refused(command: str, start: str, capsys: pytest.CaptureFixture):
    config = parsed(command)
    (error,) = [*check(config, WORLD), *check_recipe(config, WORLD), *check_numbers(config)]
    assert error.startswith(start) and capsys.readouterr().err == ""


def test_a_file_gives_as_flags_do(tmp_path: Path, capsys: pytest.CaptureFixture):
    file = tmp_path / "run.yaml"
    file.write_text("train_iters: 5\nlr_warmup_iters: 10\n")
    assert parsed(f"cogvideox-tiny --config {file}").optimizer.lr_warmup_iters == 10
    assert capsys.readouterr().err == ""


def test_nothing_is_said_where_nothing_is_in_the_way(capsys: pytest.CaptureFixture):
    for name in preset_names():
        parsed(f"{name} --train-iters 11")
    assert capsys.readouterr().err == ""

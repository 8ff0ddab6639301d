"""The command line of the converter."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkpoint.checkpoints import assert_same, diffusers, sat
from tools import convert_checkpoint

ROOT = Path(__file__).parents[2]


def arguments(load_format, load, save_format, save, *more):
    return [
        "--load-format",
        load_format,
        "--load",
        str(load),
        "--save-format",
        save_format,
        "--save",
        str(save),
        *more,
    ]


def test_as_a_program(tmp_path):
    words = arguments("sat", sat("2b"), "diffusers", tmp_path / "out", "--verify")
    done = subprocess.run(
        [sys.executable, "tools/convert_checkpoint.py", *words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert_same(tmp_path / "out", diffusers("2b"))
    assert "final_norm_eps is 1e-06 in the source and 1e-05 in diffusers' network" in done.stdout
    assert "52 tensors read back: equal in every bit" in done.stdout
    assert "diffusers' network and vidtron's" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("out: cogvideox-2b, 52 tensors, 140,896 parameters")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--model", "cogvideox-5b"], "time_embed.0.weight: shape [16, 64]; the network has [512, 3072]"),
        (["--ema"], "no averages of the weights"),
        (["--sat-model-parallel-size", "3"], "--sat-model-parallel-size 3: 4 attention heads do not divide by it"),
        ([], "exists; accepted: a new or empty folder, or --overwrite"),
    ],
)
def test_refusals(capsys, tmp_path, more, message):
    run = tmp_path / "run"
    convert_checkpoint.main(arguments("sat", sat("2b"), "megatron", run))
    load = ("sat", sat("2b")) if "--model" in more else ("megatron", run)
    target = tmp_path / "out"
    if not more:
        target.mkdir()
        (target / "precious").touch()
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_info:
        convert_checkpoint.main(arguments(*load, "sat", target, *more))
    assert exit_info.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert all(line.startswith("error: ") for line in captured.err.splitlines())
    assert not target.exists() or [path.name for path in target.iterdir()] == ["precious"]

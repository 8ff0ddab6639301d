"""tools/measure_latents.py: statistics of latents, as the autoencoder gives them and as a model is trained on them."""

import re
from pathlib import Path

import pytest

from tests.encoders.tiny_folders import make_tiny_image_vae, make_tiny_wan_vae
from tests.tools.test_arguments import program

SMALL = ("--num-frames", "5", "--height", "32", "--width", "48", "--clips", "2")


def measured(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, list[float]]:
    """Mean and RMS of each line that tells them."""
    program("measure_latents").main([*SMALL, *map(str, arguments)])
    lines = re.findall(r"^(\w+): mean (\S+), RMS (\S+), of 2 clips$", capsys.readouterr().out, re.MULTILINE)
    return {name: [float(mean), float(rms)] for name, mean, rms in lines}


def test_the_factor_is_the_folders_or_the_flags(shards: Path, tmp_path: Path, capsys) -> None:
    pytest.importorskip("diffusers")
    folder = make_tiny_image_vae(tmp_path / "image", scaling_factor=3.0)
    for flags, factor in (((), 3.0), (("--scale-factor", 0.5), 0.5)):
        found = measured(capsys, "--data-path", shards, "--vae-path", folder, *flags)
        assert found["all"][1] > 0
        assert found["normalised"] == pytest.approx([factor * value for value in found["all"]], abs=2e-3)
    built_in = measured(capsys, "--data-path", shards)
    assert built_in["normalised"] == built_in["all"]


def test_channels_have_no_factor(shards: Path, tmp_path: Path, capsys) -> None:
    pytest.importorskip("diffusers")
    words = ("--data-path", shards, "--vae-path", make_tiny_wan_vae(tmp_path))
    found = measured(capsys, *words)
    assert found["normalised"] != pytest.approx(found["all"], abs=1e-3)
    with pytest.raises(SystemExit) as leaving:
        measured(capsys, *words, "--scale-factor", 0.5)
    assert leaving.value.code == 2 and "--scale-factor 0.5: " in capsys.readouterr().err

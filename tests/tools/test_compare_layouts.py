"""Layouts compared on the user's own run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NETWORK = [
    "--num-layers", "2", "--hidden-size", "32", "--num-attention-heads", "2", "--time-embed-dim", "32",
    "--text-length", "6", "--text-width", "16",
]  # fmt: skip
CLIPS = ["--num-frames", "9", "--height", "32", "--width", "48", "--num-workers", "0"]
TRAINING = ["--global-batch-size", "2", "--lr", "1e-3", "--steps", "2", *CLIPS]


def compare(*words: object, paths: tuple[Path, ...] = ()) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, *paths))), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "tools/compare_layouts.py", *map(str, words)],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_layouts_that_agree(shards, tmp_path):
    ended = compare(
        "--layouts", "TP2+SP", "CP2", "--model", "cogvideox-tiny", *NETWORK, *TRAINING, "--data-path", shards,
        "--keep", tmp_path / "kept", "--save", tmp_path / "run",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(r"^TP2\+SP +2 .* equal$", ended.stdout, re.M) and re.search(
        r"^CP2 +2 .* equal$", ended.stdout, re.M
    )
    assert "left out: --save\n" in ended.stdout and not (tmp_path / "run").exists()
    assert (tmp_path / "kept" / "CP2" / "tensors" / "rank_1.bin").stat().st_size


@pytest.mark.slow
def test_faults_are_named(shards):
    """An output that is wrong on one rank, and a gradient that is."""
    ended = compare(
        "--layouts", "TP2+SP", "CP2", "--model", "faulty-tiny", "--plugin", "faulty_family", *TRAINING,
        "--data-path", shards, paths=(Path(__file__).parent,),
    )  # fmt: skip
    assert ended.returncode == 1, ended.stdout + ended.stderr
    told = {
        name: text.splitlines()
        for name, text in re.findall(r"^(\S+) differs (first.*(?:\n  .*)*)", ended.stdout, re.M)
    }
    assert told.keys() == {"TP2+SP", "CP2"}
    first, where, made, _ = told["TP2+SP"]
    assert "step 1: output of decoder.layers.1, sample 0" in first
    assert "[12:24 x 0:32] of [24 x 32], on rank 1 (tensor 1 of 2)" in where
    assert "vidtron.models.layers.layer.ModulatedLayer" in made
    first, where, made, _ = told["CP2"]
    assert "step 1: gradient of decoder.layers.1.self_attention.q_layernorm.weight" in first
    assert "in decoder.layers.1.self_attention.q_layernorm" in made
    assert ended.stdout.count("  DIFFERENT") == 2


@pytest.mark.slow
def test_a_family_outside_the_tree(shards):
    ended = compare(
        "--layouts", "TP2+SP", "--reference", "CP2", "--model", "toydit", "--plugin", "toydit", "--num-layers", "2",
        "--global-batch-size", "2", "--steps", "1", "--num-workers", "0", "--data-path", shards,
        paths=(ROOT / "tests" / "plugin_family",),
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(r"^TP2\+SP +2 .* equal$", ended.stdout, re.M)


def test_everything_that_is_refused_at_once(shards):
    ended = compare("--layouts", "TP2+EP4", "SP", "CP2+a2a+all_gather", "TP", "--model", "cogvideox-tiny")
    assert ended.returncode == 2
    for line in (
        "error: --layouts TP2+EP4: EP4: no model has experts to divide; accepted: parts joined by +, ",
        "error: --layouts SP: SP: splits tokens over tensor-parallel ranks; accepted: beside TP2 or more",
        "error: --layouts CP2+a2a+all_gather: a2a and all_gather: one exchange is used; accepted: one of them",
        "error: --layouts TP: TP: accepted: parts joined by +",
    ):
        assert line in ended.stderr
    ended = compare("--layouts", "TP3", "PP2+VPP3", "--model", "cogvideox-tiny", "--data-path", shards, *CLIPS)
    assert ended.returncode == 2
    assert "error: --layouts TP3: --tensor-model-parallel-size 3" in ended.stderr
    assert "error: --layouts PP2+VPP3: VPP3: 4 layers do not divide into 6 chunks; accepted: VPPn" in ended.stderr

"""Adapters leave a run and start another."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.training.small import small_run
from vidtron import training
from vidtron.checkpoint import latest, read_full_state
from vidtron.checkpoint.lora_formats import read
from vidtron.config.world import World
from vidtron.models.layers.lora import is_adapter

ROOT = Path(__file__).parents[2]
WORLD = World(size=1, rank=0, local_rank=0, has_cuda=False)
LORA = {"lora_rank": 2, "lora_alpha": 3.0, "save_lora_only": True}


def convert(*words) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "tools" / "convert_lora.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    training.run(small_run(shards, save=folder, train_iters=3, lr=1e-2, **LORA), WORLD)
    return folder


@pytest.mark.parametrize("form", ["sat", "diffusers"])
def test_a_run_starts_from_another_tools_adapters(trained, shards, tmp_path, form):
    file = tmp_path / form
    done = convert("--load", trained, "--load-format", "megatron", "--save", file, "--save-format", form)
    assert done.returncode == 0, done.stderr
    assert "8 adapters" in done.stdout
    assert ("lora_alpha: 3" if form == "sat" else "adapter weight 1.0") in done.stdout
    mine, theirs = read(trained, "megatron"), read(file, form)
    assert {name: a.alpha for name, a in theirs.items()} == {name: a.alpha for name, a in mine.items()}
    assert all(torch.equal(theirs[name].B, a.B) and torch.equal(theirs[name].A, a.A) for name, a in mine.items())

    # Twice the alpha: half of B. Without a learning rate the run saves what it started from.
    again = small_run(
        shards, save=tmp_path / "run", lora_load=file, train_iters=1, lr=0.0, **{**LORA, "lora_alpha": 6.0}
    )
    assert training.check(again, WORLD) == []
    training.run(again, WORLD)
    before, after = (read_full_state(latest(folder)) for folder in (trained, tmp_path / "run"))
    assert before.keys() == after.keys()
    assert all(map(is_adapter, after))
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor if name.endswith(".A") else tensor / 2), name


def test_files_that_do_not_fit_a_run(trained, shards, tmp_path):
    convert("--load", trained, "--load-format", "megatron", "--save", tmp_path, "--save-format", "diffusers")
    lora = {"lora_load": tmp_path, "train_iters": 1}
    (error,) = training.check(small_run(shards, lora_rank=3, **lora), WORLD)
    assert "have rank 2; accepted: the same" in error
    (error,) = training.check(small_run(shards, lora_rank=3, lora_load=tmp_path / "gone"), WORLD)
    assert "does not exist" in error
    more = small_run(shards, lora_rank=2, lora_target_modules=["to_q", "to_k", "to_v", "ff.net.2"], **lora)
    with pytest.raises(RuntimeError, match=r"(?s)4 adapters differ.*mlp.lora_fc2.out: not in.*lora_proj.out: in"):
        training.run(more, WORLD)
    wider = small_run(shards, lora_rank=2, hidden_size=48, num_attention_heads=3, **lora)
    with pytest.raises(RuntimeError, match=r"lora_qkv.q.A: shape \[2, 32\] in the file, \[2, 48\] in this run"):
        training.run(wider, WORLD)


def test_refusals(trained, tmp_path):
    done = convert("--load", tmp_path, "--load-format", "megatron", "--save", tmp_path, "--save-format", "sat")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith(f"error: {tmp_path}: no complete checkpoint")

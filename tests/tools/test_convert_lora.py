"""Adapters leave a run and start another."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.checkpoint.checkpoints import assert_same, diffusers, load_sat, rank_file
from tests.reference.cogvideox_oracle import DATA, PREFIX
from tests.training.small import small_run
from tools import convert_checkpoint
from vidtron import training
from vidtron.checkpoint import latest, read_full_state
from vidtron.checkpoint.lora_formats import read
from vidtron.config.world import World
from vidtron.models.layers.lora import is_adapter

ROOT = Path(__file__).parents[2]
WORLD = World(size=1, rank=0, local_rank=0, has_cuda=False)
LORA_FILE = DATA / "lora" / "2b_pytorch_lora_weights.safetensors"
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


def test_adapters_and_weights_for_sats_inference(tmp_path, capsys):
    words = ["--load", LORA_FILE, "--load-format", "diffusers", "--lora-alpha", "1", "--base", diffusers("2b")]
    done = convert(*words, "--save", tmp_path / "sat", "--save-format", "sat")
    assert done.returncode == 0, done.stderr
    assert "8 adapters; the YAML of SAT needs r: 4, lora_alpha: 1" in done.stdout
    names = json.loads(LORA_FILE.with_name("2b_keys.json").read_text())["all_keys"]
    assert {name.removeprefix(PREFIX) for name in load_sat(rank_file(tmp_path / "sat", tag="1"))} == set(names)
    merging = ["--load-format", "sat", "--load", str(tmp_path / "sat"), "--save-format", "diffusers", "--save"]
    convert_checkpoint.main([*merging, str(tmp_path / "dropped"), "--lora", "drop"])
    assert_same(tmp_path / "dropped", diffusers("2b"))
    convert_checkpoint.main([*merging, str(tmp_path / "merged"), "--lora-alpha", "2"])
    printed = capsys.readouterr().out
    assert "note: LoRA adapters left out (16 tensors)" in printed
    assert "note: 8 LoRA adapters merged into the weights (rank 4, alpha 2)" in printed

    done = convert(*words, "--save", tmp_path / "diffusers", "--save-format", "diffusers")
    assert done.returncode == 2
    assert "--base: diffusers has weights and adapters apart; accepted: --save-format sat" in done.stderr
    done = convert(*words, "--save", tmp_path / "sat", "--save-format", "sat")
    assert done.returncode == 2
    assert "exists; accepted: a new or empty folder, or --overwrite" in done.stderr


def test_refusals(trained, tmp_path):
    done = convert("--load", tmp_path, "--load-format", "megatron", "--save", tmp_path, "--save-format", "sat")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith(f"error: {tmp_path}: no complete checkpoint")

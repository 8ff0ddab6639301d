"""A run's adapters, trained on two ranks, merged into their weights: the other network gives what ours gives."""

import shutil

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel

from tests.checkpoint.checkpoints import assert_same, contents
from tests.distributed.layouts import LAYOUTS, Layout, small_run, train
from vidtron import checkpoint
from vidtron.checkpoint import ConversionError, latest, open_weights
from vidtron.checkpoint.lora_source import open_merged
from vidtron.config.world import World
from vidtron.inference.replica_network import ReplicaNetwork
from vidtron.models.build import build_chunks
from vidtron.models.cogvideox.family import CogVideoXFamily
from vidtron.models.inputs import Conditions, TextInput
from vidtron.models.layers.rotary import angles_3d
from vidtron.parallel import initialized

BOUND = 2e-5
TARGETS = ["to_q", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "norm1.linear", "norm2.linear"]
LORA = {"lora_rank": 3, "lora_alpha": 6.0, "lora_target_modules": TARGETS, "lr": 1e-2, "train_iters": 3}
DIFFUSERS = {"final_norm_eps": 1e-5}
ALONE = {"save_lora_only": True}


def run_once(pool, shards, folder, layout=LAYOUTS["TP2+SP"], **flags):
    """Train; gives the configuration of the run."""
    run = small_run(shards, save=folder, **{**layout.flags, **LORA, **DIFFUSERS, **flags})
    pool.run(train, layout.ranks, run)
    return run


@pytest.fixture(scope="module")
def base(pool, shards, tmp_path_factory):
    """A diffusers folder, and the run it was converted from."""
    folder = tmp_path_factory.mktemp("base")
    run_once(pool, shards, folder / "run", Layout(1, {}), lora_rank=None, train_iters=2)
    checkpoint.convert(folder / "run", folder / "diffusers", save_format="diffusers")
    return folder


@pytest.fixture(scope="module")
def alone(pool, shards, base, tmp_path_factory):
    """A run of adapters alone on the diffusers folder, with averages; and its configuration."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    run = run_once(pool, shards, folder, load=base / "diffusers", ema_decay=[0.5], **ALONE)
    return folder, run


def inputs():
    draw = torch.Generator().manual_seed(5)
    return torch.randn(1, 3, 16, 4, 6, generator=draw), torch.randn(1, 6, 16, generator=draw)


def our_output(rank, run, folder, average=None):
    """Job: the output of the network with adapters beside its weights."""
    latents, text = inputs()
    with initialized(run, World.from_environment()) as groups:
        chunks = build_chunks(CogVideoXFamily(), run, groups)
        if average is None:
            checkpoint.load_with_base(folder, chunks, None, None, groups)
        else:
            checkpoint.load_ema_with_base(folder, chunks, average, groups)
        length, told = CogVideoXFamily().sequence_length(run), Conditions((TextInput(text),))
        return ReplicaNetwork(chunks, groups, sequence_length=length)(latents, 500, told)


def diffusers_output(folder):
    latents, text = inputs()
    model = CogVideoXTransformer3DModel.from_pretrained(folder).eval()
    angles = angles_3d(3, 2, 3, model.config.attention_head_dim)
    with torch.no_grad():
        return model(latents, text, torch.tensor([500]), image_rotary_emb=(angles.cos(), angles.sin())).sample


def assert_learned(output, base):
    assert (output - diffusers_output(base / "diffusers")).abs().max() > 1e-2


def test_a_run_with_its_weights(pool, shards, base, tmp_path):
    run = run_once(pool, shards, tmp_path / "run", load=base / "diffusers", ema_decay=[0.5])
    expected = pool.run(our_output, 2, run, latest(tmp_path / "run"))[0]
    result = checkpoint.convert(tmp_path / "run", tmp_path / "out", save_format="diffusers", verify=True)
    assert "28 LoRA adapters merged into the weights (rank 3, alpha 6)" in result.notes
    assert result.verification.differences["vidtron's network, adapters merged and beside the weights"] < BOUND
    output = diffusers_output(tmp_path / "out")
    assert (output - expected).abs().max() < BOUND
    assert_learned(output, base)
    checkpoint.convert(tmp_path / "run", tmp_path / "dropped", save_format="diffusers", lora="drop")
    assert_same(tmp_path / "dropped", base / "diffusers")
    averaged = open_merged(tmp_path / "run", ema=True)  # the frozen weights have no averages
    assert "88 tensors were not trained and have no average: taken as they are" in averaged.notes
    state = checkpoint.read_full_state(latest(tmp_path / "run"), average="0.5")
    name = "decoder.layers.3.self_attention.linear_proj.weight"
    B, A = (state[f"decoder.layers.3.self_attention.lora_proj.out.{half}"] for half in "BA")
    torch.testing.assert_close(averaged.read(name), state[name] + 2.0 * B @ A, rtol=0, atol=1e-6)
    assert not torch.equal(averaged.read(name), open_merged(tmp_path / "run").read(name))
    with pytest.raises(ConversionError, match=r"does not hold adapters alone; accepted: without --lora-base"):
        open_merged(tmp_path / "run", lora_base=base / "diffusers")


def test_adapters_alone_on_another_formats_weights(pool, base, alone, tmp_path):
    folder, run = alone
    expected = pool.run(our_output, 2, run, latest(folder))[0]
    result = checkpoint.convert(folder, tmp_path / "out", save_format="diffusers", verify=True)
    assert f"base weights of the adapters: {base / 'diffusers'}" in result.notes
    assert result.verification.differences["vidtron's network, adapters merged and beside the weights"] < BOUND
    output = diffusers_output(tmp_path / "out")
    assert (output - expected).abs().max() < BOUND
    assert_learned(output, base)
    checkpoint.convert(folder, tmp_path / "dropped", save_format="diffusers", lora="drop", verify=True)
    assert_same(tmp_path / "dropped", base / "diffusers")


def test_averages_of_adapters(pool, alone, tmp_path):
    folder, run = alone
    expected = pool.run(our_output, 2, run, latest(folder), "0.5")[0]
    result = checkpoint.convert(folder, tmp_path / "out", save_format="diffusers", ema=True)
    assert "average of the weights: 0.5" in result.notes
    output = diffusers_output(tmp_path / "out")
    assert (output - expected).abs().max() < BOUND
    checkpoint.convert(folder, tmp_path / "weights", save_format="diffusers")
    assert (output - diffusers_output(tmp_path / "weights")).abs().max() > 1e-3


@pytest.mark.parametrize("save_format", ["sat", "megatron"])
def test_the_base_has_moved(base, alone, tmp_path, save_format):
    """To another place and format: the same sums. Other weights are refused."""
    folder, _ = alone
    checkpoint.convert(folder, tmp_path / "expected", save_format="diffusers")
    checkpoint.convert(base / "diffusers", tmp_path / "moved", save_format=save_format)
    checkpoint.convert(folder, tmp_path / "out", save_format="diffusers", lora_base=tmp_path / "moved", verify=True)
    assert_same(tmp_path / "out", tmp_path / "expected")
    for target in (tmp_path / "moved", tmp_path / "moved" / "out"):
        with pytest.raises(ConversionError, match="lies within"):
            checkpoint.convert(folder, target, save_format="sat", lora_base=tmp_path / "moved", overwrite=True)
    other = tmp_path / "other"
    checkpoint.convert(base / "diffusers", other, save_format="diffusers", dtype="fp16")
    with pytest.raises(ConversionError, match=r"not those its adapters were trained on; \d+ of 88 tensors differ"):
        open_merged(folder, lora_base=other)
    with pytest.raises(ConversionError, match=r"--lora-base \S+: not a complete checkpoint"):
        open_merged(folder, lora_base=tmp_path / "nowhere")
    with pytest.raises(ConversionError, match=r"holds LoRA adapters alone; accepted: weights"):
        open_weights(folder)


def test_adapters_alone_whose_base_is_gone(pool, shards, base, tmp_path):
    shutil.copytree(base / "diffusers", tmp_path / "gone")
    run_once(pool, shards, tmp_path / "run", load=tmp_path / "gone", train_iters=1, **ALONE)
    shutil.rmtree(tmp_path / "gone")
    with pytest.raises(ConversionError, match=r"their base weights are not at \S+gone any more; .* --lora-base"):
        checkpoint.convert(tmp_path / "run", tmp_path / "out", save_format="sat")
    run_once(pool, shards, tmp_path / "fresh", train_iters=1, **ALONE)
    with pytest.raises(ConversionError, match=r"initial weights of a --seed, .* accepted: --lora-base"):
        checkpoint.convert(tmp_path / "fresh", tmp_path / "out", save_format="sat")


def test_a_bf16_run(pool, shards, base, tmp_path):
    """The base's fp32 weights are kept, the adapters' fp32 masters taken; without --dtype, the bf16 adapters."""
    run_once(pool, shards, tmp_path / "run", load=base / "diffusers", bf16=True, **ALONE)
    result = checkpoint.convert(tmp_path / "run", tmp_path / "out", save_format="megatron", dtype="fp32", verify=True)
    assert "fp32 weights of the optimizer: 56 tensors" in result.notes
    state = checkpoint.read_full_state(latest(tmp_path / "run"), optimizer=True)
    name = "decoder.layers.2.mlp.lora_fc1.out"
    masters = [state[f"optimizer.state.param.{name}.{half}"] for half in "BA"]
    plain = [state[f"{name}.{half}"].float() for half in "BA"]
    weight = "decoder.layers.2.mlp.linear_fc1.weight"
    base_weight = open_weights(base / "diffusers").read(weight)
    merged = contents(tmp_path / "out")[weight]
    torch.testing.assert_close(merged, base_weight + 2.0 * masters[0] @ masters[1], rtol=0, atol=1e-6)
    assert not torch.equal(masters[0], plain[0])
    without = open_merged(tmp_path / "run").read(weight)
    torch.testing.assert_close(without, base_weight + 2.0 * plain[0] @ plain[1], rtol=0, atol=1e-6)
    assert not torch.equal(without, merged)

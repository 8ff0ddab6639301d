"""Checkpoints of SAT with LoRA adapters beside the weights: merged, dropped, refused."""

import dataclasses
import json

import pytest
import torch
import yaml
from diffusers import CogVideoXTransformer3DModel

from tests.checkpoint.checkpoints import assert_same, contents, copy_sat, diffusers, load_sat, rank_file, sat
from tests.reference.cogvideox_oracle import DATA, PREFIX
from vidtron import checkpoint
from vidtron.checkpoint import CheckpointError, ConversionError, lora_source
from vidtron.checkpoint.conversion_verification import our_output
from vidtron.checkpoint.formats import open_weights
from vidtron.checkpoint.lora_adapters import Adapter
from vidtron.checkpoint.lora_formats import read
from vidtron.checkpoint.lora_sat import write_sat, write_sat_with_base
from vidtron.checkpoint.lora_source import open_merged
from vidtron.models.cogvideox.family import FAMILY
from vidtron.models.inputs import ModelInput
from vidtron.models.layers.checkpoint_rules import bits_equal

# Outputs reach 3; two implementations of which each last bit may differ (tests/last_bits.py) are 2e-5 apart and more.
BOUND = 1e-4
ORACLE = DATA / "lora" / "2b.pt"
ALL_KEYS = json.loads((DATA / "lora" / "2b_keys.json").read_text())["all_keys"]


@pytest.fixture
def adapted(tmp_path):
    """The tiny 2B with upstream's adapters, as SAT's trainer writes it."""
    folder = copy_sat("2b", tmp_path / "adapted")
    adapters = torch.load(ORACLE, weights_only=True)["lora_sat"]
    modules = {name.rsplit(".", 2)[0] for name in adapters}
    module = {}
    for name, tensor in load_sat(rank_file(folder)).items():
        parent, _, leaf = name.rpartition(".")
        module[f"{parent}.original.{leaf}" if parent in modules else name] = tensor
    torch.save({"module": {**module, **adapters}}, rank_file(folder))
    assert {name.removeprefix(PREFIX) for name in load_sat(rank_file(folder))} == set(ALL_KEYS)
    return folder


def test_merged_adapters_give_sats_output(adapted, tmp_path):
    """In diffusers' network, and in ours with either format's epsilon."""
    oracle = torch.load(ORACLE, weights_only=True)
    result = checkpoint.convert(adapted, tmp_path / "out", save_format="diffusers", dtype="fp32", verify=True)
    assert "8 LoRA adapters merged into the weights (rank 4, alpha 1)" in result.notes
    differences = result.verification.differences
    assert differences["vidtron's network, source and target weights"] == 0
    assert 0 < differences["vidtron's network, adapters merged and beside the weights"] < BOUND
    foreign = [d for name, d in differences.items() if name.startswith("diffusers' network")]
    assert len(foreign) == 1 and foreign[0] < BOUND
    model = CogVideoXTransformer3DModel.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        output = model(
            hidden_states=oracle["x"], encoder_hidden_states=oracle["context"], timestep=oracle["timesteps"]
        ).sample
    assert (output - oracle["out_sat"]).abs().max() < BOUND
    inputs = ModelInput.of(oracle["x"], oracle["timesteps"], oracle["context"])
    weights = open_weights(tmp_path / "out")
    assert (our_output(weights, inputs, {"final_norm_eps": 1e-6}) - oracle["out_sat"]).abs().max() < BOUND
    assert (our_output(weights, inputs, {"final_norm_eps": 1e-5}) - output).abs().max() < BOUND
    plain = our_output(open_weights(sat("2b")), inputs)
    assert (plain - oracle["out_sat"]).abs().max() > 0.5


@pytest.mark.parametrize(("save_format", "dtype"), [("sat", None), ("megatron", "bf16"), ("diffusers", "fp16")])
def test_sums_are_rounded_once(adapted, tmp_path, save_format, dtype):
    checkpoint.convert(adapted, tmp_path / "precise", save_format=save_format, dtype="fp32")
    checkpoint.convert(adapted, tmp_path / "out", save_format=save_format, dtype=dtype, verify=True)
    precise, rounded = contents(tmp_path / "precise"), contents(tmp_path / "out")
    base = contents(tmp_path / "adapted")
    assert precise.keys() == rounded.keys()
    kind = torch.float16 if dtype == "fp16" else torch.bfloat16
    changed = 0
    for name, tensor in rounded.items():
        if tensor.dtype != torch.float32:  # a table
            assert bits_equal(tensor, precise[name].to(kind)), name
            changed += not torch.equal(tensor.float(), precise[name])
    assert changed > 0
    if save_format == "sat":
        assert bits_equal(rounded[f"00 {PREFIX}time_embed.0.weight"], base[f"00 {PREFIX}time_embed.0.weight"])


def test_verify_finds_wrong_sums(adapted, tmp_path, monkeypatch):
    real = lora_source.merged
    monkeypatch.setattr(
        lora_source, "merged", lambda name, w, adapters, *rest: real(name, w, dict(list(adapters.items())[1:]), *rest)
    )
    with pytest.raises(ConversionError, match="adapters merged and beside the weights: largest difference"):
        checkpoint.convert(adapted, tmp_path / "out", save_format="diffusers", dtype="fp32", verify=True)
    assert not (tmp_path / "out").exists()


def test_verify_with_uneven_adapters(adapted, tmp_path):
    edit(adapted, lambda m: [m.pop(name) for name in list(m) if ".layers.1." in name and ".matrix_" in name])
    result = checkpoint.convert(adapted, tmp_path / "out", save_format="sat", verify=True)
    assert any(line.endswith("not run, the adapters differ from layer to layer") for line in result.verification.lines)


def test_adapters_are_dropped_when_asked(adapted, tmp_path):
    result = checkpoint.convert(adapted, tmp_path / "out", save_format="diffusers", lora="drop", verify=True)
    assert_same(tmp_path / "out", diffusers("2b"))
    assert "LoRA adapters left out (16 tensors)" in result.notes


def test_where_alpha_stands(adapted, tmp_path):
    """In upstream's YAML beside, or with the flag."""
    network = {"num_layers": 2, "hidden_size": 64, "modules": {"lora_config": {"params": {"r": 4, "lora_alpha": 3}}}}
    name = "decoder.layers.1.self_attention.linear_qkv.weight"
    base = open_merged(adapted, dtype="fp32", lora="drop").read(name).float()
    one = open_merged(adapted, dtype="fp32").read(name) - base
    told = open_merged(adapted, dtype="fp32", lora_alpha=3.0)
    torch.testing.assert_close(told.read(name) - base, 3 * one, rtol=1e-4, atol=1e-5)
    (adapted / "config.yaml").write_text(yaml.safe_dump({"model": {"network_config": {"params": network}}}))
    beside = open_merged(adapted, dtype="fp32")
    assert "8 LoRA adapters merged into the weights (rank 4, alpha 3)" in beside.notes
    assert torch.equal(beside.read(name), told.read(name))
    assert {a.alpha for a in read(adapted, "sat").values()} == {3.0}


def edit(folder, change):
    module = dict(load_sat(rank_file(folder)))
    change(module)
    torch.save({"module": module}, rank_file(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: m.pop(f"{PREFIX}transformer.layers.0.attention.dense.matrix_B.0"),
            r"missing: decoder.layers.0.self_attention.lora_proj.out.B",
        ),
        (
            lambda m: m.update(
                {f"{PREFIX}transformer.layers.9.attention.dense.matrix_{h}.0": torch.ones(4, 4) for h in "AB"}
            ),
            r"decoder.layers.9.self_attention.lora_proj.out: the network has no such map",
        ),
        (
            lambda m: m.update({f"{PREFIX}transformer.layers.0.attention.dense.matrix_A.0": torch.ones(4, 63)}),
            r"lora_proj.out: for a map of \[64, 63\]; the network has \[64, 64\]",
        ),
        (
            lambda m: m.update(
                {f"{PREFIX}transformer.layers.0.mlp.dense_h_to_4h.matrix_{h}.0": torch.ones(4, 4) for h in "AB"}
            ),
            r"2 tensors that are no adapters of this network: \S*mlp.dense_h_to_4h.matrix_A.0",
        ),
        (
            lambda m: [m.pop(name) for name in list(m) if ".matrix_" not in name],
            "without the weights that they belong",
        ),
    ],
    ids=["half", "layer", "width", "map", "alone"],
)
def test_adapters_that_do_not_fit(adapted, tmp_path, change, message):
    edit(adapted, change)
    with pytest.raises(ConversionError, match=message):
        checkpoint.convert(adapted, tmp_path / "out", save_format="diffusers")
    assert not (tmp_path / "out").exists()


def test_refusals(adapted, tmp_path):
    with pytest.raises(ConversionError, match=r"LoRA adapters stand beside its weights .16 tensors.*merged by tools"):
        open_weights(adapted)
    with pytest.raises(ConversionError, match=r"--lora-alpha: .* has no adapters"):
        checkpoint.convert(sat("2b"), tmp_path / "out", save_format="sat", lora_alpha=1.0)
    with pytest.raises(ConversionError, match=r"--lora-base: .* is no checkpoint of adapters alone"):
        checkpoint.convert(sat("2b"), tmp_path / "out", save_format="sat", lora_base=sat("2b"))
    with pytest.raises(ValueError, match="--lora both: accepted: merge, drop"):
        checkpoint.convert(adapted, tmp_path / "out", save_format="sat", lora="both")
    rank_file(adapted, 1).write_bytes(rank_file(adapted).read_bytes())
    with pytest.raises(ConversionError, match="LoRA adapters in the files of 2 model-parallel ranks"):
        checkpoint.convert(adapted, tmp_path / "out", save_format="sat")


@pytest.mark.parametrize("base", ["sat", "diffusers", "megatron", "adapted"])
def test_sats_inference_gets_adapters_and_weights(adapted, tmp_path, base):
    """From weights of any format: the names that upstream's code loads strictly, and every bit."""
    path = {"sat": sat("2b"), "diffusers": diffusers("2b"), "adapted": adapted}.get(base, tmp_path / "run")
    if base == "megatron":
        checkpoint.convert(diffusers("2b"), path, save_format="megatron")
    adapters = read(DATA / "lora" / "2b_pytorch_lora_weights.safetensors", "diffusers", alpha=1.0)
    weights = open_weights(path, adapters=True)
    assert write_sat_with_base(adapters, weights, tmp_path / "out") == 1.0
    ours, upstreams = load_sat(rank_file(tmp_path / "out", tag="1")), load_sat(rank_file(adapted))
    assert {name.removeprefix(PREFIX) for name in ours} == set(ALL_KEYS)
    assert [name for name in upstreams if not bits_equal(ours[name], upstreams[name])] == []
    config = json.loads((tmp_path / "out" / "model_config.json").read_text())["network_config"]["params"]
    assert config["modules"]["lora_config"]["params"] == {"r": 4, "lora_alpha": 1.0}


def test_alpha_and_types_beside_the_weights(adapted, tmp_path):
    adapters = {name: dataclasses.replace(a, alpha=2.0) for name, a in read(adapted, "sat").items()}
    base = open_weights(sat("2b"))
    assert write_sat_with_base(adapters, base, tmp_path / "two", dtype=torch.float32) == 2.0
    assert {a.alpha for a in read(tmp_path / "two", "sat").values()} == {2.0}
    assert write_sat_with_base(adapters, base, tmp_path / "one", dtype=torch.float32, fold_scale=True) == 1.0
    name = "decoder.layers.0.self_attention.linear_proj.weight"
    two, one = (open_merged(tmp_path / folder).read(name) for folder in ("two", "one"))
    assert two.dtype == torch.float32
    assert torch.equal(two, one)
    with pytest.raises(FileExistsError, match="--overwrite"):
        write_sat_with_base(adapters, base, tmp_path / "one")


def test_adapters_of_another_network(adapted, tmp_path):
    adapters = read(adapted, "sat")
    some = {name: a for name, a in adapters.items() if ".layers.0." in name}
    with pytest.raises(CheckpointError, match=r"decoder.layers.1: no adapters; SAT has them in every layer"):
        write_sat_with_base(some, open_weights(sat("2b")), tmp_path / "out")
    narrow = {name: Adapter(a.A[:, :9], a.B, a.alpha) for name, a in adapters.items()}
    with pytest.raises(CheckpointError, match=r"8 adapters do not fit\n.*for a map of \[64, 9\]"):
        write_sat_with_base(narrow, open_weights(sat("2b")), tmp_path / "out")
    write_sat(adapters, tmp_path / "alone", FAMILY)
    with pytest.raises(ConversionError, match="without the weights that they belong to"):
        write_sat_with_base(adapters, open_weights(tmp_path / "alone"), tmp_path / "out")
    assert not (tmp_path / "out").exists()

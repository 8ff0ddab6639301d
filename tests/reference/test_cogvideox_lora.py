"""Adapters against upstream's: SAT's outputs, and diffusers' network with the files we write."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file

from tests.reference.cogvideox_oracle import DATA, NETWORKS, exact_times, folder, load_weights, run_config, sat_state
from vidtron.checkpoint import take_adapters
from vidtron.checkpoint.lora_adapters import Adapter
from vidtron.checkpoint.lora_diffusers import write_diffusers
from vidtron.checkpoint.lora_formats import read
from vidtron.checkpoint.lora_merge import merged
from vidtron.checkpoint.lora_sat import sat_state as lora_sat_state
from vidtron.config.world import World
from vidtron.inference.replica_network import ReplicaNetwork
from vidtron.models.cogvideox.checkpoint_names import sat_rows
from vidtron.models.cogvideox.family import FAMILY, CogVideoXFamily
from vidtron.models.cogvideox.lora_names import TARGETS
from vidtron.models.inputs import Conditions, TextInput
from vidtron.models.layers.checkpoint_rules import to_ours
from vidtron.parallel import initialized
from vidtron.training.assembly import assemble

LORA = DATA / "lora"
BOUND = 2e-5
SAT_EPS, DIFFUSERS_EPS = 1e-6, 1e-5
ALL = [target.flag for target in TARGETS]
SAT_TARGETS = [target.flag for target in TARGETS if "sat" in target.foreign]
LAYOUTS = {
    "one rank": (1, {}),
    "TP2+SP": (2, {"tensor_model_parallel_size": 2, "sequence_parallel": True}),
    "PP2": (2, {"pipeline_model_parallel_size": 2}),
    "CP2": (2, {"context_parallel_size": 2}),
}


@pytest.fixture(scope="module")
def sat_file(tmp_path_factory):
    """Upstream's adapters as a SAT file."""
    path = tmp_path_factory.mktemp("sat") / "lora.pt"
    torch.save({"module": torch.load(LORA / "2b.pt", weights_only=True)["lora_sat"]}, path)
    return path


def output(rank, inputs, adapters, targets, parallel, merge=False, eps=SAT_EPS):
    """Job: our network's output on rank 0, with adapters beside the weights or in them."""
    run = run_config("2b", parallel)
    run.network = dataclasses.replace(run.network, final_norm_eps=eps)
    first = next(iter(adapters.values()))
    if not merge:
        run.adaptation.lora_rank, run.adaptation.lora_alpha = first.rank, first.alpha
        run.adaptation.lora_target_modules = targets
    x = inputs["x"]
    run.data.num_frames, run.data.height, run.data.width = 4 * (x.shape[1] - 1) + 1, 8 * x.shape[3], 8 * x.shape[4]
    with initialized(run, World.from_environment()) as groups:
        family = CogVideoXFamily()
        model = assemble(family, run, groups)
        load_weights(model, "2b", groups, merged_with=adapters if merge else {})
        if not merge:
            take_adapters(adapters, run.adaptation.lora_scale, model.modules, groups)
        network = ReplicaNetwork(model.modules, groups, sequence_length=family.sequence_length(run))
        told = [Conditions((TextInput(text_LE[None]),)) for text_LE in inputs["context"]]
        return torch.cat([network(x[i : i + 1], int(inputs["timesteps"][i]), told[i]) for i in range(len(x))])


def random_adapters(targets, *, rank=3, alpha=6.0, ranks=None):
    """Adapters large enough to be seen, on the tiny 2B."""
    draw = torch.Generator().manual_seed(3)
    width = {"modulation.lora": (16, 6 * 64), "mlp.lora_fc1": (64, 256), "mlp.lora_fc2": (256, 64)}
    adapters = {}
    for layer in range(2):
        for target in TARGETS:
            if target.flag in targets:
                inputs, outputs = width.get(target.ours.rsplit(".", 1)[0], (64, 64))
                r = (ranks or {}).get((layer, target.flag), rank)
                a, b = (torch.randn(s, generator=draw) * 0.2 for s in ((r, inputs), (outputs, r)))
                adapters[f"decoder.layers.{layer}.{target.ours}"] = Adapter(a, b, alpha)
    return adapters


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sats_adapters_give_sats_output(pool, sat_file, layout):
    inputs = torch.load(LORA / "2b.pt", weights_only=True)
    ranks, parallel = LAYOUTS[layout]
    adapters = {
        name: dataclasses.replace(a, A=a.A.float(), B=a.B.float()) for name, a in read(sat_file, "sat").items()
    }
    result = pool.run(output, ranks, inputs, adapters, SAT_TARGETS, parallel)[0]
    assert (result - inputs["out_sat"]).abs().max() < BOUND
    without = torch.load(folder("2b") / "io.pt", weights_only=True)["out_sat"]
    assert (result - without).abs().max() > 0.5


def test_names_are_upstreams(sat_file, tmp_path):
    adapters = read(sat_file, "sat")
    exported = load_file(write_diffusers(adapters, tmp_path, FAMILY))
    upstreams = load_file(LORA / "2b_pytorch_lora_weights.safetensors")
    assert exported.keys() == upstreams.keys()
    assert all(torch.equal(exported[key], upstreams[key]) for key in upstreams)
    keys = json.loads((LORA / "2b_keys.json").read_text())["all_keys"]
    assert set(lora_sat_state(adapters, FAMILY)) == {key for key in keys if ".matrix_" in key}


@pytest.mark.parametrize("targets", [SAT_TARGETS, ALL, ["to_k", "norm2.linear"]], ids=["attention", "all", "some"])
def test_merging_gives_the_same_output(pool, targets):
    inputs = torch.load(LORA / "2b.pt", weights_only=True)
    adapters = random_adapters(targets)
    beside = pool.run(output, 1, inputs, adapters, targets, {})[0]
    inside = pool.run(output, 2, inputs, adapters, targets, LAYOUTS["TP2+SP"][1], True)[0]
    assert (beside - inside).abs().max() < BOUND
    base = torch.load(folder("2b") / "io.pt", weights_only=True)["out_sat"]
    assert (beside - base).abs().max() > 0.1


def in_diffusers(path, inputs, *, ignore_header=False):
    """The output of diffusers' network with the adapters of a file, loaded by diffusers' loader."""
    from diffusers import CogVideoXPipeline, CogVideoXTransformer3DModel

    network = CogVideoXTransformer3DModel.from_pretrained(folder("2b") / "diffusers" / "transformer").float().eval()
    state, header = CogVideoXPipeline.lora_state_dict(str(path), return_lora_metadata=True)
    assert all("lora" in key for key in state)  # load_lora_weights refuses anything else
    network.load_lora_adapter(state, metadata=None if ignore_header else header, prefix="transformer")
    exact_times(network, inputs["timesteps"])
    with torch.no_grad():
        return network(
            hidden_states=inputs["x"], encoder_hidden_states=inputs["context"], timestep=inputs["timesteps"]
        ).sample


@pytest.mark.parametrize(
    ("targets", "fold"), [(SAT_TARGETS, False), (ALL, False), (ALL, True)], ids=["attention", "all", "folded"]
)
def test_diffusers_gives_our_output(pool, tmp_path, targets, fold):
    inputs = torch.load(LORA / "2b.pt", weights_only=True)
    adapters = random_adapters(targets)
    ours = pool.run(output, 1, inputs, adapters, targets, {}, False, DIFFUSERS_EPS)[0]
    write_diffusers(adapters, tmp_path, FAMILY, fold_scale=fold)
    assert (in_diffusers(tmp_path, inputs) - ours).abs().max() < BOUND
    blind = (in_diffusers(tmp_path, inputs, ignore_header=True) - ours).abs().max()
    assert blind < BOUND if fold else blind > 0.1


def test_sats_adapters_in_diffusers(sat_file, tmp_path):
    """1 / rank arrives: the remaining difference is that of the two networks' last norms."""
    inputs = torch.load(LORA / "2b.pt", weights_only=True)
    write_diffusers(read(sat_file, "sat"), tmp_path, FAMILY)
    assert (in_diffusers(tmp_path, inputs) - inputs["out_sat"]).abs().max() < BOUND


def test_different_ranks_in_diffusers(tmp_path):
    inputs = torch.load(LORA / "2b.pt", weights_only=True)
    adapters = random_adapters(SAT_TARGETS, ranks={(1, "to_k"): 5, (0, "to_out.0"): 2})
    name = "decoder.layers.0.self_attention.lora_qkv.v"
    adapters[name] = dataclasses.replace(adapters[name], alpha=1.5)
    file = write_diffusers(adapters, tmp_path / "patterns.safetensors", FAMILY)
    assert {n: a.alpha for n, a in read(file, "diffusers").items()} == {n: a.alpha for n, a in adapters.items()}
    expected = in_diffusers(write_diffusers(adapters, tmp_path / "folded", FAMILY, fold_scale=True).parent, inputs)
    assert (in_diffusers(file, inputs) - expected).abs().max() < BOUND


def test_merged_weights_are_the_sum():
    network = NETWORKS["2b"]
    ours = to_ours(sat_rows(network), sat_state("2b"), network)
    adapters = random_adapters(["to_v"])
    (name, adapter) = next(iter(adapters.items()))
    weight = "decoder.layers.0.self_attention.linear_qkv.weight"
    delta = merged(weight, ours[weight], adapters, network) - ours[weight]
    per_head = delta.unflatten(0, (4, 3, 16))
    assert per_head[:, :2].abs().max() == 0
    torch.testing.assert_close(per_head[:, 2].flatten(0, 1), 2.0 * adapter.B @ adapter.A, rtol=1e-4, atol=1e-5)
    untouched = "decoder.layers.0.self_attention.linear_proj.weight"
    assert merged(untouched, ours[untouched], adapters, network) is ours[untouched]
    halved = merged(weight, ours[weight].bfloat16(), adapters, network)
    assert halved.dtype == torch.bfloat16
    assert torch.equal(halved, merged(weight, ours[weight].bfloat16().float(), adapters, network).bfloat16())
    assert name.endswith(".v")

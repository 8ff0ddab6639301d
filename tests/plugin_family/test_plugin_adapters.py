"""Adapters of a family that vidtron does not know: merged, kept alone, and in files of another tool."""

import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tools import convert_checkpoint, convert_lora
from vidtron import checkpoint, training
from vidtron.checkpoint import CheckpointError, latest, read_full_state
from vidtron.checkpoint.lora_adapters import Adapter, cast, paired
from vidtron.checkpoint.lora_diffusers import write_diffusers
from vidtron.checkpoint.lora_formats import format_of, read, read_with_family
from vidtron.checkpoint.lora_merge import merged, misfits
from vidtron.config import cli
from vidtron.config.world import World
from vidtron.models import registry
from vidtron.models.build import build_chunks
from vidtron.models.cogvideox.lora_names import TARGETS
from vidtron.models.inputs import VIDEO, Conditions, ModelInput, TextInput
from vidtron.models.layers.checkpoint_rules import bits_equal
from vidtron.models.layers.initialization import global_names
from vidtron.models.layers.lora import is_adapter
from vidtron.models.lora_targets import parameter_names
from vidtron.parallel import initialized

HERE = Path(__file__).parent
WORLD = World(size=1, rank=0, local_rank=0, has_cuda=False)
SOME = ["cross.v2", "attn.k", "mlp.up"]
LORA = ["--lora-rank", "2", "--lora-alpha", "3", "--lora-target-modules", *SOME]


@pytest.fixture(scope="module")
def family():
    """The family, found by its entry point within this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HERE)
        patch.setattr(registry, "_registry", cache(registry._registry.__wrapped__))
        yield registry.family_of("toydit")


def run_of(*words):
    return cli.parse(["--model", "toydit", "--num-layers", "2", *map(str, words)], registry.preset, ["toydit"])


def model_input():
    draw = torch.Generator().manual_seed(2)
    first, second, pooled = (torch.randn(2, *shape, generator=draw) for shape in ((6, 24), (4, 40), (40,)))
    masks = (torch.arange(n) < torch.tensor([[n], [2]]) for n in (6, 4))
    texts = (TextInput(first, next(masks)), TextInput(second, next(masks), pooled))
    noisy = torch.randn(2, 3, 20, 2, 3, generator=draw)
    return ModelInput({VIDEO: noisy}, torch.tensor([10, 700]), Conditions(texts))


def adapters_in(state, run, family):
    halves = {tuple(name.rsplit(".", 1)): tensor for name, tensor in state.items() if is_adapter(name)}
    return paired(halves, lambda name, rank: run.adaptation.lora_scale * rank, Path("here"), family)


@pytest.mark.parametrize("targets", ["all", SOME], ids=["every map", "one part of a map"])
@torch.no_grad()
def test_merging_gives_the_same_output(family, targets):
    """Every place that this family has; CogVideoX's own are tested against diffusers."""
    words = [target.flag for target in family.lora_targets] if targets == "all" else targets
    run = run_of("--lora-rank", 3, "--lora-alpha", 6, "--lora-target-modules", *words)
    draw = torch.Generator().manual_seed(1)
    with initialized(run, WORLD) as groups:
        (beside,) = build_chunks(family, run, groups)
        (plain,) = build_chunks(family, run_of(), groups)
        state = {named.name: named.parameter for named in global_names(beside)}
        for name, parameter in state.items():
            if is_adapter(name):
                parameter.normal_(0, 0.2, generator=draw)
        adapters = adapters_in(state, run, family)
        assert len(adapters) == 2 * len(words)
        assert misfits(adapters, family, run.network) == []
        before = plain.eval()(inputs=model_input())
        for named in global_names(plain):
            named.parameter.copy_(merged(named.name, state[named.name], adapters, run.network))
        expected, result = beside.eval()(inputs=model_input()), plain(inputs=model_input())
    assert (result - expected).abs().max() < 1e-5 * expected.abs().max()
    assert (before - expected).abs().max() > 1e-2 * expected.abs().max()
    more = adapters | {"decoder.layers.2.mlp.lora_fc2.out": next(iter(adapters.values()))}
    assert misfits(more, family, run.network) == ["decoder.layers.2.mlp.lora_fc2.out: the network has no such map"]


def test_the_flag_and_its_default(family):
    def adapted(*words):
        names = filter(is_adapter, parameter_names(family, run_of("--lora-rank", 2, *words)))
        return {name.removeprefix("decoder.layers.1.") for name in names if name.startswith("decoder.layers.1.")}

    assert len(adapted()) == 2 * 10
    assert "cross_attention.kv.1.lora.k.A" not in adapted()
    assert adapted("--lora-target-modules", "cross.k2") == {f"cross_attention.kv.1.lora.k.{half}" for half in "AB"}
    (error,) = family.check(run_of("--lora-rank", 2, "--lora-target-modules", "to_q", "attn.v"), WORLD)
    assert error.startswith("--lora-target-modules to_q: accepted: attn.q, attn.k, attn.v, cross.q, ")


@pytest.fixture(scope="module")
def alone(family, shards, tmp_path_factory):
    """A run, and one of adapters alone upon its weights."""
    folder = tmp_path_factory.mktemp("plugin_adapters")
    words = ["--data-path", shards, "--global-batch-size", 2, "--num-workers", 0, "--no-tensorboard"]
    training.run(run_of(*words, "--save", folder / "base", "--train-iters", 1), WORLD)
    start = ["--load", folder / "base", "--finetune", "--save-lora-only", *LORA]
    training.run(run_of(*words, "--save", folder / "alone", "--train-iters", 2, *start), WORLD)
    return folder


def convert_adapters(monkeypatch, *words):
    """The program's own main, in this process, where the family is known."""
    monkeypatch.setattr(sys, "argv", ["convert_lora.py", *map(str, words)])
    convert_lora.main()


def test_files_of_another_tool(family, alone, tmp_path, monkeypatch, capsys):
    words = ["--load-format", "megatron", "--load", alone / "alone", "--save"]
    convert_adapters(monkeypatch, *words, tmp_path / "file", "--save-format", "diffusers")
    assert "6 adapters" in capsys.readouterr().out
    mine = read(alone / "alone", "megatron")
    written = load_file(tmp_path / "file" / "pytorch_lora_weights.safetensors")
    value = mine["decoder.layers.1.mlp.lora_gated_fc1.value"]
    assert torch.equal(written["transformer.blocks.1.mlp.up.lora_B.weight"], value.B)
    assert {name.split(".")[4] for name in written} == {"k", "up", "v2"}
    found, theirs = read_with_family(tmp_path / "file", format_of(tmp_path / "file"))
    assert found is family
    assert list(theirs) == list(mine)
    assert all(torch.equal(theirs[name].B, a.B) and theirs[name].alpha == 3 for name, a in mine.items())
    with pytest.raises(SystemExit) as ended:
        convert_adapters(monkeypatch, *words, tmp_path / "sat", "--save-format", "sat")
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "--save-format sat: adapters of this family of models have no names in the sat format" in told
    assert told.endswith("accepted: diffusers\n")
    with pytest.raises(CheckpointError, match=r"blocks.0.attn.k.lora_A.weight, .*pairs on transformer_blocks.\*.attn"):
        read(tmp_path / "file", "diffusers", family=registry.family_of("cogvideox-tiny"))


def test_names_of_two_families(family, tmp_path, monkeypatch):
    monkeypatch.setattr(type(family), "lora_targets", TARGETS)
    adapter = Adapter(torch.ones(2, 4), torch.ones(4, 2), alpha=3.0)
    write_diffusers({"decoder.layers.0.self_attention.lora_qkv.q": adapter}, tmp_path, family)
    with pytest.raises(
        CheckpointError, match=r"of several families of models; accepted: --model cogvideox\S+ or toydit"
    ):
        read(tmp_path, "diffusers")
    assert len(read(tmp_path, "diffusers", family=family)) == 1


def test_adapters_alone_come_with_their_base(family, alone, shards):
    """And others are taken from a file."""
    words = ["--data-path", shards, "--global-batch-size", 2, *LORA]
    run = run_of(*words)
    write_diffusers(cast(read(alone / "alone", "megatron"), torch.float32), alone / "file", family, overwrite=True)
    with initialized(run, WORLD) as groups:
        chunks = build_chunks(family, run, groups)
        checkpoint.load_with_base(latest(alone / "alone"), chunks, None, None, groups)
        loaded = {named.name: named.parameter.detach() for named in global_names(chunks[0])}
        fresh = build_chunks(family, run, groups)
        checkpoint.take_adapters(read(alone / "file", "diffusers"), run.adaptation.lora_scale, fresh, groups)
        taken = {named.name: named.parameter.detach() for named in global_names(fresh[0])}
    base, own = read_full_state(latest(alone / "base")), read_full_state(latest(alone / "alone"))
    assert all(map(is_adapter, own)) and own.keys() == {name for name in loaded if is_adapter(name)}
    for name, tensor in loaded.items():
        assert torch.equal(tensor, (own if is_adapter(name) else base)[name]), name
        assert not is_adapter(name) or torch.equal(taken[name], own[name]), name
    record = checkpoint.read_state(latest(alone / "alone"))["lora_base"]
    assert record["path"] == str(latest(alone / "base").resolve())
    assert record["checksums"].keys() == base.keys()


def test_the_program_merges_them(family, alone, tmp_path, capsys):
    """Adapters alone come with their base; what is written is the sum, and gives the output of the two."""

    def convert(name, *words):
        places = ["--load", alone / "alone", "--save", tmp_path / name]
        formats = ["--load-format", "megatron", "--save-format", "megatron"]
        convert_checkpoint.main(list(map(str, [*formats, *places, *words, "--verify"])))
        return read_full_state(latest(tmp_path / name)), capsys.readouterr().out

    base, adapters = read_full_state(latest(alone / "base")), read(alone / "alone", "megatron")
    written, told = convert("merged")
    assert "note: 6 LoRA adapters merged into the weights (rank 2, alpha 3)" in told
    assert "vidtron's network, adapters merged and beside the weights: largest difference" in told
    assert written.keys() == base.keys()
    for name, weight in base.items():
        assert bits_equal(written[name], merged(name, weight, adapters, run_of().network)), name
    changed = {name.split(".", 3)[3] for name, weight in base.items() if not torch.equal(written[name], weight)}
    assert changed == {
        f"{map}.weight" for map in ("self_attention.linear_qkv", "cross_attention.kv.1.linear", "mlp.linear_fc1")
    }
    dropped, told = convert("dropped", "--lora", "drop")
    assert "note: LoRA adapters left out (12 tensors)" in told
    assert all(bits_equal(dropped[name], weight) for name, weight in base.items())

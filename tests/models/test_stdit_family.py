"""What STDiT says of itself: initial weights, what of it is frozen, what it refuses."""

import dataclasses

import pytest
import torch

from tests.reference.stdit_oracle import STDIT2, STDIT3, described, run_config
from vidtron.config.lora import AdaptationConfig
from vidtron.config.run import RunConfig
from vidtron.config.world import World
from vidtron.models import freezing
from vidtron.models.lora_targets import parameter_names
from vidtron.models.registry import family_of, preset, preset_names
from vidtron.models.stdit.checkpoint_names import COMPUTED, NULL_TEXT, initial_rules, opensora_rows, our_rows, sizes
from vidtron.models.stdit.family import FAMILY
from vidtron.parallel import initialized


def tiny(**changes) -> RunConfig:
    run = RunConfig(model="stdit2-tiny", network=dataclasses.replace(preset("stdit2-tiny").network))
    run.data.height, run.data.width, run.data.num_frames = 64, 96, 5
    for name, value in changes.items():
        section = next(s for s in ("network", "parallel", "data", "adaptation") if hasattr(getattr(run, s), name))
        setattr(run, section, dataclasses.replace(getattr(run, section), **{name: value}))
    return run


def drawn(rank: int) -> dict[str, tuple[float, float]]:
    """Job: standard deviation and greatest value of each of the network's initial tensors."""
    run = run_config("stdit2", {})
    with initialized(run, World.from_environment()) as groups:
        state = FAMILY.build(run, groups).state_dict()
    return {
        name: (float(tensor.std(correction=0)), float(tensor.abs().max()))
        for name, tensor in state.items()
        if isinstance(tensor, torch.Tensor)
    }


def test_initial_weights_are_open_soras(pool):
    ours = pool.run(drawn, 1)[0]
    theirs = described()["init_std_and_absmax"]
    rows = opensora_rows(STDIT2)
    assert {row.ours for row in rows} == ours.keys() and {row.theirs[0] for row in rows} == theirs.keys() - {*COMPUTED}
    numel = {row.ours: torch.Size(row.our_shape(sizes(STDIT2))).numel() for row in rows}
    for row in rows:
        (std, most), (expected, bound) = ours[row.ours], theirs[row.theirs[0]]
        noise = 5 * expected / numel[row.ours] ** 0.5 + 1e-6  # both are drawn
        assert abs(std - expected) < noise, row.ours
        assert (most == 0) == (bound == 0) or "norm" in row.ours, row.ours


def test_stdit3_starts_without_its_temporal_layers():
    rules = initial_rules(STDIT3)
    zero = set()
    for row in our_rows(STDIT3):
        if row.ours.endswith(".weight"):
            tensor = torch.empty(row.our_shape(sizes(STDIT3)))
            rules(row.ours)(tensor, torch.Generator().manual_seed(0))
            if not tensor.any():
                zero.add(row.ours.replace(".1.", ".*.").replace(".0.", ".*."))
    temporal = "decoder.layers.*.temporal"
    assert zero == {
        "times.fps.linear_2.weight",
        f"{temporal}.self_attention.linear_proj.weight",
        f"{temporal}.cross_attention.linear_proj.weight",
        f"{temporal}.mlp.linear_fc2.weight",
    }


@pytest.mark.parametrize(
    ("adaptation", "trained"),
    [
        (AdaptationConfig(train_only=["*.temporal_attention.*"]), lambda name: "attn_temp" in name),
        (AdaptationConfig(freeze=["*.cross_attention.*"]), lambda name: "cross_attn" not in name),
    ],
    ids=["not_temporal", "text"],
)
def test_open_soras_ways_of_freezing(adaptation, trained):
    run = tiny()
    names = parameter_names(FAMILY, run)
    assert NULL_TEXT not in names and freezing.errors(names, adaptation) == []
    rows = [row for row in opensora_rows(run.network) if row.ours in names]
    ours = freezing.trained_names(names, adaptation)
    assert ours == {row.ours for row in rows if trained(row.theirs[0])} and 0 < len(ours) < len(names)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 104}, "--hidden-size 104: accepted: multiples of 12"),
        ({"num_attention_heads": 5}, "--num-attention-heads 5: --hidden-size 96 does not divide into heads"),
        ({"out_channels": 6}, "--out-channels 6: accepted: 4, the latent's, or 8"),
        ({"tensor_model_parallel_size": 3}, "--tensor-model-parallel-size 3: 4 attention heads do not divide by it"),
        ({"context_parallel_size": 2, "cp_comm_type": "p2p"}, "--cp-comm-type p2p: not with attention along one axis"),
        ({"context_parallel_size": 3, "cp_comm_type": "a2a"}, "--cp-comm-type a2a: 4 heads on a tensor-parallel rank"),
        ({"height": 60}, "--height 60: accepted: multiples of 8 pixels"),
        ({"lora_rank": 4}, "--lora-rank: models of this family take no adapters; accepted: without"),
    ],
)
def test_refusals(changes, message):
    [error] = FAMILY.check(tiny(**changes), World(1, 0, 0, False))
    assert error.startswith(message)


@pytest.mark.parametrize("name", [name for name in preset_names() if name.startswith("stdit")])
def test_presets_are_accepted(name):
    chosen = preset(name)
    run = RunConfig(model=name, network=chosen.network)
    for section, values in chosen.defaults.items():
        setattr(run, section, dataclasses.replace(getattr(run, section), **values))
    family = family_of(name)
    assert family.check(run, World(1, 0, 0, False)) == []
    frames, channels, height, width = family.latent_shape(run)
    assert family.geometry(run).takes(run.data.num_frames)
    assert channels == 4 and (height, width) == (run.data.height // 8, run.data.width // 8)
    assert family.tokens_per_sample(run) == frames * -(-height // 2) * -(-width // 2)
    assert family.flops_per_sample(run) > 6 * family.tokens_per_sample(run) * 20 * run.network.hidden_size**2

"""Both directions of every layout rule."""

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.reference.cogvideox_oracle import NETWORKS, VARIANTS, folder, run_config, sat_state
from vidtron.config.world import World
from vidtron.models.build import build_chunks
from vidtron.models.cogvideox import checkpoint_names
from vidtron.models.cogvideox.checkpoint_names import diffusers_rows, our_rows, sat_rows
from vidtron.models.cogvideox.family import CogVideoXFamily
from vidtron.models.layers.checkpoint_rules import (
    QkvSeparate,
    QkvThirds,
    SplitAlong,
    bits_equal,
    differences,
    to_ours,
    to_theirs,
)
from vidtron.models.layers.initialization import global_names
from vidtron.parallel import initialized


def diffusers_state(variant: str) -> dict[str, torch.Tensor]:
    weights = folder(variant) / "diffusers" / "transformer" / "diffusion_pytorch_model.safetensors"
    return {name: tensor.float() for name, tensor in load_file(weights).items()}


def assert_same(state: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert state.keys() == expected.keys()
    assert [name for name in expected if not bits_equal(state[name], expected[name])] == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_cover_upstreams_files_and_invert(variant):
    """SAT's weights through our names are the folder that upstream's converter wrote, and back."""
    network, sat, diffusers = NETWORKS[variant], sat_state(variant), diffusers_state(variant)
    ours = to_ours(sat_rows(network), sat, network)
    assert_same(to_theirs(sat_rows(network), ours, network), sat)
    assert_same(to_theirs(diffusers_rows(network), ours, network), diffusers)
    assert_same(to_ours(diffusers_rows(network), diffusers, network), ours)


@pytest.mark.parametrize("variant", NETWORKS)
def test_the_tables_shapes_are_the_networks(variant):
    run, world = run_config(variant, {}), World.from_environment()
    with initialized(run, world) as groups:
        chunks = build_chunks(CogVideoXFamily(), run, groups)
        shapes = {named.name: tuple(named.parameter.shape) for named in global_names(chunks[0])}
    sizes = checkpoint_names.sizes(run.network)
    assert {row.ours: row.our_shape(sizes) for row in our_rows(run.network)} == shapes


@pytest.mark.parametrize("variant", NETWORKS)
def test_ranks_of_sat_join_to_the_whole(variant):
    """Thirds are cut before the ranks' parts are joined."""
    network = NETWORKS[variant]
    sizes = checkpoint_names.sizes(network)
    generator = torch.Generator().manual_seed(0)
    for row in sat_rows(network):
        for shape in row.their_shapes(sizes, network):
            whole = torch.randn(shape, generator=generator)
            for ranks in (1, 2, 4):
                parts = row.ranks.split(whole, ranks)
                assert len(parts) == ranks
                assert bits_equal(row.ranks.join(parts), whole)
    qkv = torch.arange(12)[:, None]
    assert [part.flatten().tolist() for part in SplitAlong(0, sections=3).split(qkv, 2)] == [
        [0, 1, 4, 5, 8, 9],
        [2, 3, 6, 7, 10, 11],
    ]
    with pytest.raises(ValueError, match="do not divide by 5 ranks"):
        SplitAlong(0, sections=3).split(qkv, 5)


def test_qkv_puts_each_heads_three_parts_together():
    network = dataclasses.replace(NETWORKS["2b"], num_attention_heads=2)
    theirs = torch.arange(12)[:, None]  # q of two heads of two rows, then k, then v
    expected = [0, 1, 4, 5, 8, 9, 2, 3, 6, 7, 10, 11]
    assert QkvThirds().to_ours([theirs], network).flatten().tolist() == expected
    assert QkvSeparate().to_ours(theirs.chunk(3), network).flatten().tolist() == expected


def test_missing_unknown_and_wrong_tensors_are_all_named():
    network, state = NETWORKS["2b"], sat_state("2b")
    del state["time_embed.0.bias"], state["transformer.final_layernorm.weight"]
    state["surprise"] = torch.zeros(1)
    with pytest.raises(KeyError, match=r"time_embed.0.bias, .*final_layernorm.weight; unknown: surprise"):
        to_ours(sat_rows(network), state, network)
    state["time_embed.2.bias"] = torch.zeros(17)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert differences(sat_rows(network), shapes, checkpoint_names.sizes(network), network, ()) == [
        "time_embed.0.bias: missing",
        "transformer.final_layernorm.weight: missing",
        "surprise: unknown",
        "time_embed.2.bias: shape [17]; the network has [16]",
    ]


def test_bits_are_compared_not_values():
    assert bits_equal(torch.tensor([float("nan"), 0.0]), torch.tensor([float("nan"), 0.0]))
    assert not bits_equal(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert not bits_equal(torch.tensor([1.0]), torch.tensor([1.0], dtype=torch.bfloat16))


def test_the_documentation_has_every_name():
    page = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    for entry in checkpoint_names._TABLE:
        for name in (entry.ours, entry.sat, *entry.diffusers):
            assert f"`{name.removesuffix('.weight').removesuffix('.bias')}`" in page, name

"""Conversions between all formats lose nothing."""

import json

import pytest
import torch

from tests.checkpoint.checkpoints import FORMATS, VARIANTS, assert_same, contents, diffusers, sat
from tests.reference.cogvideox_oracle import NETWORKS
from vidtron import checkpoint
from vidtron.checkpoint.formats import open_weights

CIRCUIT = "sat sat diffusers diffusers megatron megatron sat megatron diffusers sat".split()
"""Each of the nine directions once."""


@pytest.mark.parametrize("variant", VARIANTS)
def test_sat_becomes_the_folder_of_upstreams_converter(variant, tmp_path):
    checkpoint.convert(sat(variant), tmp_path / "out", load_format="sat", save_format="diffusers")
    assert_same(tmp_path / "out", diffusers(variant))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    expected = json.loads((diffusers(variant) / "transformer" / "config.json").read_text())
    assert config.keys() == expected.keys()
    # Nothing in the rotary networks' files tells the text length, nor in those of 1.5 the size of the clips.
    untold = {"2b": set(), "5b": {"max_text_seq_length"}}.get(
        variant, {"max_text_seq_length", "sample_frames", "sample_height", "sample_width"}
    )
    assert {name for name in config if config[name] != expected[name]} <= untold | {"_diffusers_version"}


@pytest.mark.parametrize("start", [sat, diffusers])
@pytest.mark.parametrize("variant", VARIANTS)
def test_all_directions_are_bit_equal(variant, start, tmp_path):
    """Wherever a checkpoint comes back to a format, it is what it was there."""
    path = start(variant)
    seen = {checkpoint.detect_format(path): path}
    turns = CIRCUIT[1:] if start is sat else [*CIRCUIT[3:], *CIRCUIT[1:3]]
    for number, save_format in enumerate(turns):
        target = tmp_path / f"{number}-{save_format}"
        checkpoint.convert(path, target, save_format=save_format)
        assert_same(target, seen.setdefault(save_format, target))
        path = target
    assert seen.keys() == set(FORMATS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_megatron_holds_the_network(variant, tmp_path):
    """The weights under our names, and the configuration."""
    checkpoint.convert(diffusers(variant), tmp_path / "run", save_format="megatron")
    source = open_weights(tmp_path / "run")
    assert source.network == type(source.network)(**{**vars(NETWORKS[variant]), "final_norm_eps": 1e-5})
    foreign = open_weights(diffusers(variant))
    stored = contents(tmp_path / "run")
    assert stored.keys() == {row.ours for row in foreign.rows}
    assert all(torch.equal(stored[name], foreign.read(name)) for name in stored)

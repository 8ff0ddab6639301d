"""Conversions between all formats lose nothing."""

import dataclasses
import json

import pytest
import torch

from tests.checkpoint.checkpoints import FORMATS, VARIANTS, assert_same, contents, diffusers, sat
from tests.reference.cogvideox_oracle import NETWORKS
from vidtron import checkpoint
from vidtron.checkpoint.formats import Content, open_weights
from vidtron.checkpoint.formats.sat import SatTarget
from vidtron.checkpoint.tensor_files import TensorSpec
from vidtron.models.cogvideox.checkpoint_names import our_rows, sizes
from vidtron.models.cogvideox.sample_size import sample_of_grid

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


def write_random_sat(variant, folder):
    """A SAT file as upstream writes it: without any configuration beside."""
    network = NETWORKS[variant]
    letters = sizes(network)
    specs = {row.ours: TensorSpec(row.our_shape(letters), torch.bfloat16) for row in our_rows(network)}
    folder.mkdir()
    grid = network.learned_position_grid or (3, 2, 4)
    sample = sample_of_grid(grid, network.patch_size, network.patch_size_t)
    target = SatTarget(folder, Content("cogvideox-5b", network, specs, sample))
    generator = torch.Generator().manual_seed(0)
    for name, spec in specs.items():
        target.write(name, torch.randn(spec.shape, generator=generator).mul_(0.2).bfloat16())
    target.finish()
    (folder / "model_config.json").unlink()
    return folder


@pytest.mark.parametrize("variant", NETWORKS)
def test_every_kind_of_network_is_told_by_its_tensors(variant, tmp_path):
    """Both networks give the same, and the way back the same file."""
    path = write_random_sat(variant, tmp_path / "sat")
    network = open_weights(path).network
    untold = {"2b": {}, "5b_i2v": {}}.get(variant, {"text_length": network.text_length})
    assert network == dataclasses.replace(NETWORKS[variant], **untold)
    result = checkpoint.convert(path, tmp_path / "diffusers", save_format="diffusers", verify=True)
    assert result.verification.differences["vidtron's network, source and target weights"] == 0
    foreign = [d for name, d in result.verification.differences.items() if name.startswith("diffusers' network")]
    assert len(foreign) == 1 and foreign[0] < 2e-5
    checkpoint.convert(tmp_path / "diffusers", tmp_path / "run", save_format="megatron", verify=True)
    checkpoint.convert(tmp_path / "run", tmp_path / "back", save_format="sat", verify=True)
    assert_same(tmp_path / "back", path)

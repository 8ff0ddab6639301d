"""Containers of formats that a family states: one file, and folders of other names than diffusers'."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.checkpoint.checkpoints import assert_same, contents, diffusers, sat
from vidtron import checkpoint
from vidtron.checkpoint import ConversionError
from vidtron.checkpoint.formats import formats, open_weights
from vidtron.models.cogvideox.checkpoint_names import diffusers_rows
from vidtron.models.cogvideox.diffusers_format import from_diffusers, to_diffusers
from vidtron.models.cogvideox.family import CogVideoXFamily
from vidtron.models.foreign import ConfigFolder, SingleFile

WITNESS = "patch_embed.proj.weight"


class OneFile(SingleFile):
    """diffusers' names in one file, its configuration in the header."""

    def rows(self, network):
        return diffusers_rows(network)

    def recognizes(self, config, shapes):
        return WITNESS in shapes

    def read_config(self, config, shapes):
        if not config["network"]:
            raise ValueError("an empty network in its header")
        return from_diffusers(json.loads(config["network"]))

    def write_config(self, network, sample):
        return {"network": json.dumps(to_diffusers(network, sample))}


class Folder(ConfigFolder):
    """The same beside a config.json."""

    stem, class_name = "model", "AnotherTransformer"
    settings = {"final_norm_eps": 1e-4}

    def rows(self, network):
        return diffusers_rows(network)

    def read_config(self, config, shapes):
        assert shapes == {}
        return from_diffusers(config)

    def write_config(self, network, sample):
        return {**to_diffusers(network, sample), "_class_name": self.class_name}


@pytest.fixture(autouse=True)
def stated(monkeypatch):
    """The family states both."""
    known = {**CogVideoXFamily.foreign, "one-file": OneFile(), "folder": Folder()}
    monkeypatch.setattr(CogVideoXFamily, "foreign", known)


def test_what_a_family_states_is_offered():
    assert list(formats()) == ["sat", "diffusers", "megatron", "one-file", "folder"]


@pytest.mark.parametrize("save", ["out", "out.safetensors"])
def test_one_file(save, tmp_path):
    checkpoint.convert(sat("5b"), tmp_path / save, save_format="one-file", verify=True)
    assert (tmp_path / save).is_file() == (save != "out")
    assert [path.name for path in tmp_path.iterdir()] == [save]
    assert checkpoint.detect_format(tmp_path / save) == "one-file"
    file = tmp_path / save if save != "out" else tmp_path / save / "model.safetensors"
    assert load_file(file).keys() == contents(diffusers("5b")).keys()
    assert open_weights(file).sample == open_weights(sat("5b")).sample
    checkpoint.convert(tmp_path / save, tmp_path / "back", save_format="diffusers", verify=True)
    assert_same(tmp_path / "back", diffusers("5b"))
    with pytest.raises(FileExistsError, match="--overwrite"):
        checkpoint.convert(sat("5b"), tmp_path / save, save_format="one-file")
    checkpoint.convert(sat("2b"), tmp_path / save, save_format="one-file", overwrite=True)
    assert open_weights(tmp_path / save).network.position == "sincos"


def test_a_file_is_never_half_there(tmp_path):
    def progress(names):
        for number, name in enumerate(names):
            assert all(checkpoint.detect_format(path) is None for path in [tmp_path, *tmp_path.iterdir()])
            if number == 40:
                raise KeyboardInterrupt
            yield name

    with pytest.raises(KeyboardInterrupt):
        checkpoint.convert(sat("2b"), tmp_path / "a.safetensors", save_format="one-file", progress=progress)
    assert list(tmp_path.iterdir()) == []


def test_files_that_do_not_fit(tmp_path):
    file = tmp_path / "a.safetensors"
    checkpoint.convert(sat("5b"), file, save_format="one-file")
    content, tensors = file.read_bytes(), load_file(file)
    file.write_bytes(content[:-1000])
    assert checkpoint.detect_format(file) is None
    with pytest.raises(ConversionError, match=r"a\.safetensors: cannot be read, it is truncated or damaged"):
        open_weights(file, "one-file")
    save_file(tensors, file)
    with pytest.raises(ConversionError, match=r"a\.safetensors: the network cannot be told \(KeyError: 'network'\);"):
        open_weights(file)
    save_file(tensors, file, metadata={"network": ""})
    with pytest.raises(ConversionError, match=r"a\.safetensors: an empty network in its header"):
        open_weights(file)
    save_file({"unheard_of": torch.zeros(2)}, file)
    assert checkpoint.detect_format(file) is None
    with pytest.raises(ConversionError, match=r"no checkpoint; accepted: .*megatron, one-file"):
        open_weights(file)
    with pytest.raises(ConversionError, match="layers 0 to 41 of 42: missing, with all tensors"):
        open_weights(file, "one-file", model="cogvideox-5b")
    (tmp_path / "b.safetensors").write_bytes(content)
    with pytest.raises(
        ConversionError, match=r"no single \.safetensors file; accepted: one, or a folder with one and"
    ):
        open_weights(tmp_path, "one-file")
    with pytest.raises(ConversionError, match="--ema: a file of one-file holds one set"):
        open_weights(file, "one-file", ema=True)


def test_a_folder_of_another_name(tmp_path):
    result = checkpoint.convert(sat("5b"), tmp_path / "out", save_format="folder", verify=True)
    assert any("final_norm_eps is 1e-06 in the source and 0.0001 in folder's network" in n for n in result.notes)
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"config.json", "model.safetensors"}
    assert checkpoint.detect_format(tmp_path / "out") == "folder"
    assert open_weights(tmp_path / "out").network.final_norm_eps == 1e-4
    checkpoint.convert(tmp_path / "out", tmp_path / "back", save_format="sat")
    assert_same(tmp_path / "back", sat("5b"))

"""Damaged files of each format end in one error that names the file, and leave nothing behind."""

import json
import random
import shutil
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.checkpoint.checkpoints import copy_sat, diffusers, rank_file, sat
from tests.checkpoint.test_sat import change
from vidtron import checkpoint
from vidtron.checkpoint import CheckpointError, ConversionError, lora_formats
from vidtron.checkpoint.formats import open_weights
from vidtron.checkpoint.formats.config_folder import ConfigFolderTarget
from vidtron.checkpoint.formats.sat_files import SAT_PREFIX
from vidtron.models.layers.checkpoint_rules import bits_equal

TRIES = 100
CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
INDEX = f"{WEIGHTS}.index.json"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The same network in each format; diffusers' in shards, SAT's for two ranks."""
    root = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "vidtron.checkpoint.formats.config_folder.ConfigFolderTarget",
            lambda *a: ConfigFolderTarget(*a, shard_bytes=99_999),
        )
        checkpoint.convert(sat("5b"), root / "diffusers", save_format="diffusers")
    checkpoint.convert(sat("5b"), root / "sat", save_format="sat", sat_model_parallel_size=2)
    checkpoint.convert(sat("5b"), root / "megatron", save_format="megatron")
    return root


def everything(folder, form):
    source = open_weights(folder, form)
    return {row.ours: source.read(row.ours).clone() for row in source.rows}


def mutated(content, dice, *, cut):
    """Truncated, or with up to 16 bytes changed, removed or put in."""
    place = dice.randrange(len(content))
    if cut:
        return content[:place]
    length = dice.randint(1, 16)
    noise = dice.randbytes(length)
    return (
        content[:place]
        + dice.choice([noise, noise, b"", noise + content[place : place + length]])
        + (content[place + length :])
    )


@pytest.mark.parametrize("cut", [True, False], ids=["truncated", "changed"])
@pytest.mark.parametrize("form", ["sat", "diffusers", "megatron"])
def test_bytes_damaged_anywhere(whole, form, cut, tmp_path):
    """The error of a reader, or tensors in their shapes; a truncated file never gives other values."""
    folder = tmp_path / form
    shutil.copytree(whole / form, folder)
    expected = everything(folder, form)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    dice = random.Random(f"{form} {cut}")
    refused = 0
    for number in range(TRIES):
        file = files[number % len(files)]
        content = file.read_bytes()
        file.write_bytes(mutated(content, dice, cut=cut))
        try:
            tensors = everything(folder, form)
        except ConversionError as error:
            refused += 1
            assert str(error).strip()
        else:
            assert not cut or tensors.keys() == expected.keys()
            same = tensors.keys() == expected.keys() and all(bits_equal(tensors[n], expected[n]) for n in expected)
            assert same or not cut, f"{file.name} cut to {file.stat().st_size} bytes gave other values"
        file.write_bytes(content)
    assert refused > (0.4 if cut else 0.1) * TRIES


ODD = [None, -1, 0, 1, 2.5, 7, 10**9, 10**400, float("nan"), "x", "", True, [], [2, 2, 2], {}, {"a": 1}]


def places(content, path=()):
    """All places in a nested object."""
    yield path
    if isinstance(content, dict):
        for key, value in content.items():
            yield from places(value, (*path, key))


def replaced(content, path, value):
    if not path:
        return value
    return {**content, path[0]: replaced(content[path[0]], path[1:], value)}


@pytest.mark.parametrize(
    ("form", "name"),
    [("sat", "model_config.json"), ("diffusers", CONFIG), ("diffusers", INDEX), ("megatron", "metadata.json")],
)
def test_configurations_with_other_values(whole, form, name, tmp_path):
    """Of another type, absurd or missing: refused, or the network that the file tells."""
    folder = tmp_path / form
    shutil.copytree(whole / form, folder)
    (file,) = folder.rglob(name)
    content = json.loads(file.read_text())
    everywhere = list(places(content))
    dice = random.Random(name)
    for _ in range(TRIES):
        path, value = dice.choice(everywhere), dice.choice(ODD)
        text = json.dumps(replaced(content, path, value))
        file.write_text(text)
        try:
            source = open_weights(folder, form)
        except ConversionError:
            continue
        assert source.network.num_layers == 2, (path, value)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "[1, 2]", '"text"', "\udcff", "a: [1"])
@pytest.mark.parametrize("form", ["sat", "diffusers", "megatron"])
def test_broken_texts_are_named(whole, form, text, tmp_path):
    folder = tmp_path / form
    shutil.copytree(whole / form, folder)
    names = {"sat": ["latest"], "diffusers": [CONFIG, INDEX], "megatron": ["metadata.json"]}[form]
    if form == "sat" and text in ("{", "a: [1"):
        names.append("model_config.json")
    for name in names:
        (file,) = folder.rglob(name)
        content = file.read_bytes()
        file.write_bytes(text.encode(errors="surrogateescape"))
        with pytest.raises(ConversionError) as failure:
            checkpoint.convert(folder, tmp_path / "out", load_format=form, save_format="sat")
        assert str(file) in str(failure.value)
        assert len(str(failure.value)) < 600
        file.write_bytes(content)
    assert [path.name for path in tmp_path.iterdir()] == [form]


def test_aliases_in_upstreams_yaml_are_walked_once(tmp_path):
    folder = copy_sat("5b", tmp_path / "sat")
    bomb = "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 40))
    (folder / "run.yaml").write_text(bomb + "loop: &loop [*loop]\n")
    assert open_weights(folder).network.num_layers == 2


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ("2000", r"latest: says '2000', and there is no such folder beside it; accepted: one of 1000"),
        ("", r"latest: says '';"),
        ("../../elsewhere", r"latest: says '../../elsewhere'; accepted: the name of a folder"),
        ("x" * 300, "accepted: the name of a folder"),
        ("a\0b", "accepted: the name of a folder"),
    ],
)
def test_latest_that_points_nowhere(tag, message, tmp_path):
    folder = copy_sat("5b", tmp_path / "sat")
    (folder / "latest").write_text(tag)
    with pytest.raises(ConversionError, match=message):
        open_weights(folder)


def test_ranks_of_other_shapes(whole, tmp_path):
    folder = tmp_path / "sat"
    shutil.copytree(whole / "sat", folder)
    name = "transformer.layers.0.attention.dense.weight"
    change(folder, lambda m: m.update({SAT_PREFIX + name: torch.zeros(3, 5)}), tag="1", rank=1)
    with pytest.raises(ConversionError, match=f"1 tensor does not fit.*\n{name}: the parts of the model"):
        open_weights(folder)
    change(folder, lambda m: m.pop(SAT_PREFIX + name), tag="1", rank=1)
    with pytest.raises(ConversionError, match=f"{name}: not in the files of all model-parallel ranks"):
        open_weights(folder)


@pytest.mark.parametrize("content", [[1, 2], {"module": 3}, {"module": {"a": 1}}, {"module": {3: torch.zeros(2)}}])
def test_a_pt_file_that_holds_something_else(content, tmp_path):
    folder = copy_sat("5b", tmp_path / "sat")
    torch.save(content, rank_file(folder))
    with pytest.raises(ConversionError, match=r"mp_rank_00_model_states\.pt: no tensors under `module`"):
        open_weights(folder)


def test_safetensors_whose_header_lies(tmp_path):
    folder = tmp_path / "in"
    shutil.copytree(diffusers("5b") / "transformer", folder)
    file = folder / WEIGHTS
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    for lie in ({"shape": [4, 4]}, {"data_offsets": [0, 10**12]}, {"dtype": "Q7"}, {"data_offsets": [8, 0]}):
        text = json.dumps({**header, "proj_out.bias": {**header["proj_out.bias"], **lie}}).encode()
        file.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
        with pytest.raises(ConversionError, match=f"{WEIGHTS}: .*damaged"):
            open_weights(folder)
    file.write_bytes(struct.pack("<Q", 1 << 62) + content[8:])
    with pytest.raises(ConversionError, match=f"{WEIGHTS}: .*damaged"):
        open_weights(folder)
    tensors = load_file(diffusers("5b") / "transformer" / WEIGHTS)
    save_file({**tensors, "proj_out.bias": tensors["proj_out.bias"].double()}, file)
    with pytest.raises(ConversionError, match=r"proj_out\.bias: F64; accepted: F32, BF16, F16"):
        open_weights(folder)


def test_a_config_without_its_sizes(tmp_path):
    folder = tmp_path / "in"
    shutil.copytree(diffusers("5b") / "transformer", folder)
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({k: v for k, v in config.items() if k != "num_layers"}))
    with pytest.raises(ConversionError) as failure:
        open_weights(folder)
    assert "layers 2 to 29 of 30: missing, with all tensors" in str(failure.value)
    assert "config.json does not say num_layers: diffusers' defaults hold" in str(failure.value)
    (folder / CONFIG).write_text(json.dumps({**config, "num_layers": "2", "patch_size": 0}))
    with pytest.raises(ConversionError, match=r"config.json: num_layers: '2'; accepted: a whole.*\npatch_size: 0;"):
        open_weights(folder)


def test_shards_that_hold_the_same_tensor(whole, tmp_path):
    folder = tmp_path / "in"
    shutil.copytree(whole / "diffusers", folder)
    first, second = sorted(folder.glob("*.safetensors"))[:2]
    shutil.copy(first, second)
    with pytest.raises(ConversionError, match=f"{second.name}: holds .*, which another of the folder's"):
        open_weights(folder)


def test_adapters_in_damaged_files(tmp_path):
    good = {f"transformer.transformer_blocks.0.attn1.to_q.lora_{h}.weight": torch.ones(4, 4) for h in "AB"}
    save_file(good, tmp_path / "a.safetensors", metadata={"lora_adapter_metadata": '{"r": 4, "lora_alpha": 4}'})
    base = f"{SAT_PREFIX}transformer.layers.0.attention.query_key_value.matrix_"
    torch.save({"module": {f"{base}{h}.0": torch.ones(4, 4) for h in "AB"}}, tmp_path / "a.pt")
    dice = random.Random(0)
    for name, form in (("a.safetensors", "diffusers"), ("a.pt", "sat")):
        content = (tmp_path / name).read_bytes()
        for number in range(TRIES):
            (tmp_path / name).write_bytes(mutated(content, dice, cut=number % 2 == 0))
            try:
                lora_formats.read(tmp_path / name, form)
            except CheckpointError as error:
                assert str(tmp_path) in str(error)
        (tmp_path / name).write_bytes(content)
        assert len(lora_formats.read(tmp_path / name, form)) == 1

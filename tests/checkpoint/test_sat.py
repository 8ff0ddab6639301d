"""SAT checkpoints as they are found, whole and damaged."""

import json
from fractions import Fraction

import pytest
import torch
import yaml

from tests.checkpoint.checkpoints import (
    VARIANTS,
    assert_same,
    contents,
    copy_sat,
    different,
    diffusers,
    load_sat,
    rank_file,
    sat,
)
from tests.reference import cogvideox_oracle as oracle
from vidtron import checkpoint
from vidtron.checkpoint import ConversionError
from vidtron.checkpoint.formats import open_weights
from vidtron.checkpoint.formats.sat_files import SAT_PREFIX
from vidtron.models.cogvideox.checkpoint_names import SAT_TABLES, UNUSED_POSITIONS

QKV = "transformer.layers.0.attention.query_key_value.weight"


def change(folder, edit, tag="1000", rank=0):
    """Rewrite a rank's file after `edit(module)`."""
    path = rank_file(folder, rank, tag)
    module = dict(load_sat(path))
    edit(module)
    torch.save({"module": module}, path)


def split_for_ranks(variant, folder, ranks):
    """A checkpoint of several model-parallel ranks: parts by upstream's rule, each third of qkv cut by itself."""
    whole = load_sat(rank_file(sat(variant)))
    (folder / "1").mkdir(parents=True)
    (folder / "latest").write_text("1\n")
    for rank in range(ranks):
        module = {}
        for name, tensor in whole.items():
            if ".query_key_value." in name:
                tensor = torch.cat([third.chunk(ranks)[rank] for third in tensor.chunk(3)])
            elif ".dense_h_to_4h." in name:
                tensor = tensor.chunk(ranks)[rank]
            elif name.endswith((".attention.dense.weight", ".dense_4h_to_h.weight")):
                tensor = tensor.chunk(ranks, dim=1)[rank]
            module[name] = tensor.clone()
        torch.save({"module": module}, rank_file(folder, rank, "1"))
    return folder


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("variant", VARIANTS)
def test_model_parallel_ranks(variant, ranks, tmp_path):
    parts = split_for_ranks(variant, tmp_path / "parts", ranks)
    joined = checkpoint.convert(parts, tmp_path / "joined", save_format="sat")
    assert f"joined the parts of {ranks} model-parallel ranks" in joined.notes
    assert_same(tmp_path / "joined", sat(variant))
    checkpoint.convert(sat(variant), tmp_path / "split", save_format="sat", sat_model_parallel_size=ranks)
    assert_same(tmp_path / "split", parts)


def test_a_missing_or_differing_rank_is_refused(tmp_path):
    parts = split_for_ranks("2b", tmp_path / "parts", 4)
    rank_file(parts, 3, "1").unlink()
    with pytest.raises(ConversionError, match=r"query_key_value.weight: shape \[144, 64\]; .* \[192, 64\]"):
        open_weights(parts)
    rank_file(parts, 1, "1").unlink()
    with pytest.raises(ConversionError, match=r"model-parallel ranks \[1\] are missing"):
        open_weights(parts)
    parts = split_for_ranks("2b", tmp_path / "other", 2)
    change(parts, lambda m: m[f"{SAT_PREFIX}time_embed.0.bias"].add_(1), "1", 1)
    with pytest.raises(ConversionError, match=r"time_embed.0.bias: the copies of the model-parallel ranks differ"):
        checkpoint.convert(parts, tmp_path / "out", save_format="sat")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConversionError, match="--sat-model-parallel-size 3: 4 attention heads"):
        checkpoint.convert(sat("2b"), tmp_path / "out", save_format="sat", sat_model_parallel_size=3)


def test_other_parts_of_the_engine_are_kept_aside_and_reported(tmp_path):
    folder = copy_sat("5b", tmp_path / "sat")

    def add(module):
        module["first_stage_model.encoder.conv_in.weight"] = torch.zeros(3)
        module["conditioner.embedders.0.transformer.shared.weight"] = torch.zeros(2, 2)

    change(folder, add)
    result = checkpoint.convert(folder, tmp_path / "out", save_format="diffusers")
    assert "kept aside: first_stage_model (1 tensors)" in result.notes
    assert "kept aside: conditioner (1 tensors)" in result.notes
    assert_same(tmp_path / "out", diffusers("5b"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_tables_may_be_missing(variant, tmp_path):
    folder = copy_sat(variant, tmp_path / "sat")
    tables = {*SAT_TABLES, *(["mixins.pos_embed.pos_embedding"] if variant == "2b" else [])}
    change(folder, lambda m: [m.pop(SAT_PREFIX + name, None) for name in tables])
    meta = json.loads((oracle.folder(variant) / "meta.json").read_text())
    (folder / "cogvideox.yaml").write_text(yaml.safe_dump({"model": {"network_config": meta["config"]}}))
    result = checkpoint.convert(folder, tmp_path / "sat_again", save_format="sat")
    written, original = contents(tmp_path / "sat_again"), contents(sat(variant))
    assert written.keys() == original.keys()  # what upstream's code loads with strict names
    random = f"00 {SAT_PREFIX}{UNUSED_POSITIONS}"
    assert [name for name in different(written, original) if name != random] == []
    if random in original:
        assert not written[random].any()
        assert any(note.startswith(f"{UNUSED_POSITIONS}: zeros") for note in result.notes)
    checkpoint.convert(folder, tmp_path / "out", save_format="diffusers")
    assert_same(tmp_path / "out", diffusers(variant))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    expected = json.loads((diffusers(variant) / "transformer" / "config.json").read_text())
    assert config == {**expected, "_diffusers_version": config["_diffusers_version"]}


def test_nothing_tells_the_positions(tmp_path):
    folder = copy_sat("2b", tmp_path / "sat")
    change(folder, lambda m: m.pop(f"{SAT_PREFIX}mixins.pos_embed.pos_embedding"))
    with pytest.raises(ConversionError, match=r"no tensor tells whether positions are sincos or rotary.*--model"):
        open_weights(folder)


def test_unknown_missing_and_wrong_tensors_are_all_named(tmp_path):
    folder = copy_sat("5b", tmp_path / "sat")

    def damage(module):
        module[f"{SAT_PREFIX}mixins.extra.weight"] = torch.zeros(2)
        module["another.engine.part"] = torch.zeros(2)
        del module[f"{SAT_PREFIX}transformer.layers.1.mlp.dense_4h_to_h.bias"]
        del module[f"{SAT_PREFIX}time_embed.0.weight"]
        module[SAT_PREFIX + QKV] = torch.zeros(192, 60)
        module[f"{SAT_PREFIX}mixins.patch_embed.proj.bias"] = torch.zeros(7)

    change(folder, damage)
    with pytest.raises(ConversionError) as failure:
        checkpoint.convert(folder, tmp_path / "out", save_format="megatron")
    assert str(failure.value).splitlines()[1:] == [
        "time_embed.0.weight: missing",
        "transformer.layers.1.mlp.dense_4h_to_h.bias: missing",
        "mixins.extra.weight: unknown",
        "mixins.patch_embed.proj.bias: shape [7]; the network has [64]",
        f"{QKV}: shape [192, 60]; the network has [192, 64]",
        "another.engine.part: unknown",
    ]
    assert list(tmp_path.iterdir()) == [folder]


def test_model_that_contradicts_is_refused(tmp_path):
    with pytest.raises(ConversionError, match=r"time_embed.0.weight: shape \[16, 64\]; the network has \[512, 3072\]"):
        open_weights(sat("5b"), model="cogvideox-5b")


@pytest.mark.parametrize("keep", [0.3, 0.97])
def test_truncated_file(keep, tmp_path):
    folder = copy_sat("2b", tmp_path / "sat")
    content = rank_file(folder).read_bytes()
    rank_file(folder).write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ConversionError, match="truncated or damaged"):
        open_weights(folder)


def test_pickles_that_need_trust(tmp_path):
    folder = copy_sat("2b", tmp_path / "sat")
    module = load_sat(rank_file(folder))
    torch.save({"module": module, "lr": Fraction(1, 2)}, rank_file(folder))
    with pytest.raises(ConversionError, match=r"fractions.Fraction.*--trust-pickle"):
        open_weights(folder)
    checkpoint.convert(folder, tmp_path / "out", save_format="sat", trust_pickle=True)
    assert_same(tmp_path / "out", sat("2b"))


def test_tags_and_averages(tmp_path):
    folder = copy_sat("2b", tmp_path / "sat")
    assert open_weights(folder / "1000").network == open_weights(folder).network
    with pytest.raises(ConversionError, match=r"1000-ema.*TAG-ema"):
        open_weights(folder, ema=True)
    (folder / "1000").rename(folder / "1000-ema")
    with pytest.raises(ConversionError, match=r"the folder of one tag \(1000-ema\)"):
        open_weights(folder)
    checkpoint.convert(folder, tmp_path / "out", save_format="diffusers", ema=True)
    assert_same(tmp_path / "out", diffusers("2b"))


def test_adapters_are_found_and_named(tmp_path):
    folder = copy_sat("2b", tmp_path / "sat")

    def adapt(module):
        base = SAT_PREFIX + QKV.removesuffix(".weight")
        for kind in ("weight", "bias"):
            module[f"{base}.original.{kind}"] = module.pop(f"{base}.{kind}")
        module[f"{base}.matrix_A.0"] = torch.zeros(4, 64)
        module[f"{base}.matrix_B.0"] = torch.zeros(64, 4)

    change(folder, adapt)
    with pytest.raises(ConversionError, match=r"LoRA adapters stand beside its weights \(2 tensors, \S+matrix_A.0 "):
        open_weights(folder)


def test_types_of_tables_come_back(tmp_path):
    """A released file is fp16 throughout."""
    folder = copy_sat("2b", tmp_path / "sat")
    change(folder, lambda m: m.update({name: tensor.half() for name, tensor in m.items()}))
    checkpoint.convert(folder, tmp_path / "run", save_format="megatron")
    checkpoint.convert(tmp_path / "run", tmp_path / "back", save_format="sat")
    assert_same(tmp_path / "back", folder)


def test_a_changed_table_is_refused(tmp_path):
    folder = copy_sat("5b", tmp_path / "sat")
    change(folder, lambda m: m[f"{SAT_PREFIX}mixins.pos_embed.freqs_cos"].mul_(0.5))
    with pytest.raises(ConversionError, match="freqs_cos: not the fixed table"):
        open_weights(folder)


def test_versions_of_upstreams_code(tmp_path):
    """The code for 1.5 takes flat patches and computes its tables; it gives the same network."""
    checkpoint.convert(sat("5b"), tmp_path / "new", save_format="sat", sat_version="1.5")
    new = load_sat(rank_file(tmp_path / "new", tag="1"))
    assert new[f"{SAT_PREFIX}mixins.patch_embed.proj.weight"].shape == (64, 64)
    assert not any("freqs" in name for name in new)
    checkpoint.convert(tmp_path / "new", tmp_path / "old", save_format="sat", sat_version="1.0")
    assert_same(tmp_path / "old", sat("5b"))
    for variant, version in (("2b", "1.5"), ("1.5_5b_i2v", "1.0")):
        with pytest.raises(ConversionError, match=f"--sat-version {version}"):
            checkpoint.convert(sat(variant), tmp_path / "no", save_format="sat", sat_version=version)

"""Files of adapters: nothing changes on the way, and what does not fit is refused with its names."""

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file

from vidtron.checkpoint import CheckpointError
from vidtron.checkpoint.lora_adapters import Adapter, cast
from vidtron.checkpoint.lora_diffusers import HEADER, write_diffusers
from vidtron.checkpoint.lora_formats import format_of, read
from vidtron.checkpoint.lora_sat import write_sat
from vidtron.models.cogvideox.family import FAMILY
from vidtron.models.cogvideox.lora_names import TARGETS

SAT = "model.diffusion_model.transformer.layers.0.attention.dense.matrix_"
DIFFUSERS = "transformer.transformer_blocks.0.attn1.to_q"
OURS = "decoder.layers.0.self_attention.lora_qkv.q"


def adapters(*, sat_only=True, alpha=1.0, rank=4, layers=12):
    draw = torch.Generator().manual_seed(0)
    return {
        f"decoder.layers.{layer}.{target.ours}": Adapter(
            torch.randn(rank, 6, generator=draw).bfloat16(), torch.randn(8, rank, generator=draw).bfloat16(), alpha
        )
        for layer in range(layers)
        for target in TARGETS
        if "sat" in target.foreign or not sat_only
    }


def assert_same(ours, theirs):
    assert list(ours) == list(theirs)
    for name, adapter in ours.items():
        assert torch.equal(adapter.A, theirs[name].A)
        assert torch.equal(adapter.B, theirs[name].B)
        assert (adapter.A.dtype, adapter.alpha) == (theirs[name].A.dtype, theirs[name].alpha)


@pytest.mark.parametrize("alpha", [1.0, 3.0])
def test_round_trips_are_exact(tmp_path, alpha):
    given = adapters(alpha=alpha)
    assert write_sat(given, tmp_path / "sat", FAMILY) == alpha
    once = read(tmp_path / "sat", format_of(tmp_path / "sat"))
    write_diffusers(once, tmp_path / "diffusers", FAMILY)
    twice = read(tmp_path / "diffusers", format_of(tmp_path / "diffusers"))
    assert_same(given, once)
    assert_same(given, twice)
    every_target = adapters(sat_only=False)
    assert_same(every_target, read(write_diffusers(every_target, tmp_path / "all.safetensors", FAMILY), "diffusers"))


def test_folding_keeps_the_map():
    adapter = adapters(alpha=3.0)[OURS]
    folded = adapter.with_alpha(4.0)
    assert folded.scale == 1.0
    torch.testing.assert_close(folded.B.float(), adapter.B.float() * 0.75, rtol=2**-8, atol=0)
    assert torch.equal(adapter.with_alpha(12.0).B, adapter.B * 0.25)
    assert adapter.with_alpha(3.0) is adapter


def test_folded_files(tmp_path):
    given = cast(adapters(alpha=2.0), torch.float32)
    write_diffusers(given, tmp_path, FAMILY, fold_scale=True)
    assert {a.scale for a in read(tmp_path, "diffusers").values()} == {1.0}
    assert write_sat(given, tmp_path / "sat", FAMILY, fold_scale=True) == 1.0
    for folded in (read(tmp_path, "diffusers"), read(tmp_path / "sat", "sat")):
        for name, adapter in given.items():
            assert torch.equal(folded[name].scale * folded[name].B, adapter.scale * adapter.B)


@pytest.mark.parametrize(
    ("header", "extra", "expected"),
    [
        (None, {}, 4.0),
        ({"transformer.r": 4, "transformer.lora_alpha": 8}, {}, 8.0),
        ({"lora_alpha": 8, "use_rslora": True}, {}, 16.0),
        ({"transformer.lora_alpha": 8, "transformer.alpha_pattern": {"^transformer_blocks.0.attn1.to_q": 2}}, {}, 2.0),
        ({"transformer.lora_alpha": 8, "transformer.alpha_pattern": {"to_q": 2}}, {}, 2.0),
        ({"transformer.lora_alpha": 8, "transformer.alpha_pattern": {"to_k": 2}}, {}, 8.0),
        (None, {f"{DIFFUSERS}.alpha": torch.tensor(5.0)}, 5.0),
    ],
)
def test_where_alpha_stands(tmp_path, header, extra, expected):
    tensors = {f"{DIFFUSERS}.lora_A.weight": torch.ones(4, 6), f"{DIFFUSERS}.lora_B.weight": torch.ones(8, 4), **extra}
    file = tmp_path / "some_name.safetensors"
    save_file(tensors, file, metadata={} if header is None else {HEADER: json.dumps(header)})
    assert read(tmp_path, "diffusers")[OURS].alpha == expected
    assert read(tmp_path, "diffusers", alpha=7.0)[OURS].alpha == 7.0


@pytest.mark.parametrize(
    ("tensors", "header", "message"),
    [
        (
            {f"{DIFFUSERS}.lora_A.weight": torch.ones(4, 6)},
            {},
            r"missing: decoder.layers.0.self_\w+.lora_qkv.q.B",
        ),
        (
            {f"{DIFFUSERS}.lora_A.weight": torch.ones(4, 6), f"{DIFFUSERS}.lora_B.weight": torch.ones(8, 3)},
            {},
            r"q: A of shape \[4, 6\] and B of \[8, 3\]; accepted",
        ),
        (
            {"transformer.proj_out.lora_A.weight": torch.ones(4, 6), "what.is.this": torch.ones(1)},
            {},
            r"2 tensors that are no adapters .*: transformer.proj_out.lora_A.weight, what.is.this; accepted: ",
        ),
        ({f"{DIFFUSERS}.lora_A.weight": torch.ones(4, 6)}, {"transformer.use_dora": True}, "says use_dora"),
        ({}, {}, "no adapters in it"),
    ],
)
def test_bad_diffusers_files(tmp_path, tensors, header, message):
    save_file(tensors, tmp_path / "lora.safetensors", metadata={HEADER: json.dumps(header)} if header else None)
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path / "lora.safetensors", "diffusers")


def test_a_header_that_is_no_json(tmp_path):
    save_file({f"{DIFFUSERS}.lora_A.weight": torch.ones(4, 6)}, tmp_path / "x.safetensors", metadata={HEADER: "{"})
    with pytest.raises(CheckpointError, match="its header lora_adapter_metadata is not JSON"):
        read(tmp_path, "diffusers")


class Innocent:
    """Something that is no tensor."""


def test_bad_sat_files(tmp_path):
    pair = {f"{SAT}A.0": torch.ones(4, 6), f"{SAT}B.0": torch.ones(8, 4)}
    file = tmp_path / "lora.pt"
    torch.save({"module": pair, "args": Innocent()}, file)
    with pytest.raises(CheckpointError, match=r"asks for tests\.\S+\.Innocent\).* run code.*accepted: --trust-pickle"):
        read(file, "sat")
    assert read(file, "sat", trust_pickle=True)["decoder.layers.0.self_attention.lora_proj.out"].alpha == 1.0
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(CheckpointError, match=r"lora.pt: .*truncated or damaged"):
        read(file, "sat")
    file.write_bytes(pickle.dumps({}))
    with pytest.raises(CheckpointError):
        read(file, "sat")
    torch.save({"module": {**pair, f"{SAT}A.1": torch.ones(4, 6)}}, file)
    with pytest.raises(CheckpointError, match=r"1 tensors that are no adapters .*dense.matrix_A.1"):
        read(file, "sat")
    torch.save({"module": {"model.diffusion_model.time_embed.0.weight": torch.ones(1)}}, file)
    with pytest.raises(CheckpointError, match="no adapters in it; accepted: LoRA files in the sat format"):
        read(file, "sat")


def test_sat_folders(tmp_path):
    write_sat(adapters(), tmp_path, FAMILY)
    assert_same(read(tmp_path / "1", "sat"), read(tmp_path, "sat"))
    (tmp_path / "1" / "mp_rank_01_model_states.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="2 files mp_rank"):
        read(tmp_path, "sat")


def test_sat_cannot_hold_everything(tmp_path):
    given = adapters(sat_only=False, layers=1)
    del given[OURS]
    given[OURS.replace(".q", ".k")] = Adapter(torch.ones(2, 6), torch.ones(8, 2), 1.0)
    with pytest.raises(CheckpointError, match=r"ff.net.2: SAT has no adapters.*to_q: missing; ranks 2, 4: SAT"):
        write_sat(given, tmp_path, FAMILY)
    mixed = adapters(layers=1) | {OURS: Adapter(torch.ones(4, 6), torch.ones(8, 4), 2.0)}
    with pytest.raises(CheckpointError, match="alphas 1, 2: SAT has one for all; accepted: --lora-fold-scale"):
        write_sat(mixed, tmp_path, FAMILY)
    assert write_sat(mixed, tmp_path, FAMILY, fold_scale=True) == 1.0


def test_existing_files_stay(tmp_path):
    file = write_diffusers(adapters(), tmp_path, FAMILY)
    before = file.read_bytes()
    with pytest.raises(CheckpointError, match="exists; accepted: another path, or --overwrite"):
        write_diffusers(adapters(rank=2), tmp_path, FAMILY)
    assert file.read_bytes() == before
    write_diffusers(adapters(rank=2), tmp_path, FAMILY, overwrite=True)
    assert file.read_bytes() != before
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_unknown_places(tmp_path):
    with pytest.raises(CheckpointError, match="no adapters found; accepted: a safetensors file"):
        format_of(tmp_path)
    with pytest.raises(CheckpointError, match="0 safetensors files"):
        read(tmp_path, "diffusers")
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        read(tmp_path, "megatron")

"""What does not fit a network is told by sizes, layers and a few tensors; what is not told is guessed aloud."""

import pytest
import torch

from tests.checkpoint.checkpoints import assert_same, copy_sat, diffusers, sat
from tests.checkpoint.test_sat import change
from vidtron import checkpoint
from vidtron.checkpoint import ConversionError
from vidtron.checkpoint.formats import Content, open_weights
from vidtron.checkpoint.formats.fit import misfits
from vidtron.checkpoint.formats.sat import SatTarget
from vidtron.checkpoint.formats.sat_files import SAT_PREFIX
from vidtron.checkpoint.summary import ranges, summarized
from vidtron.checkpoint.tensor_files import TensorSpec
from vidtron.models import registry
from vidtron.models.cogvideox.checkpoint_names import diffusers_rows, our_rows, sat_rows, sizes
from vidtron.models.cogvideox.config import PRESETS
from vidtron.models.cogvideox.sample_size import default_sample

TINY = registry.preset("cogvideox-tiny").network


def tensors_of(model, rows_of):
    network = registry.preset(model).network
    letters = sizes(network)
    found = {}
    for row in rows_of(network):
        found.update(zip(row.theirs, row.their_shapes(letters, network), strict=True))
    return found


def drop_layers(folder, *layers):
    """A SAT file without any tensor of these layers."""
    parts = [f"{kind}.{layer}." for layer in layers for kind in ("layers", "layernorm_list", "adaLN_modulations")]
    change(folder, lambda m: [m.pop(name) for name in list(m) if any(part in name for part in parts)], tag="1")


@pytest.fixture
def tiny(tmp_path):
    """The tiny preset's network in SAT's files, of four layers, with upstream's configuration."""
    letters = sizes(TINY)
    specs = {row.ours: TensorSpec(row.our_shape(letters), torch.bfloat16) for row in our_rows(TINY)}
    folder = tmp_path / "tiny"
    folder.mkdir()
    target = SatTarget(folder, Content("cogvideox-tiny", TINY, specs, default_sample(TINY)))
    for name, spec in specs.items():
        target.write(name, torch.full(spec.shape, 0.1, dtype=spec.dtype))
    target.finish()
    return folder


def test_many_messages_in_few_lines():
    alike = [f"decoder.layers.{layer}.{name}: missing" for layer in (0, 1, 2, 5) for name in ("a", "b")]
    assert summarized([*alike, "other.0.weight: missing"]) == [
        "decoder.layers.*.a: missing (0 to 2, 5)",
        "decoder.layers.*.b: missing (0 to 2, 5)",
        "other.0.weight: missing",
    ]
    assert summarized(alike, 1) == ["decoder.layers.*.a: missing (0 to 2, 5)", "... and 4 more tensors"]
    assert sorted(summarized(alike[:4])) == sorted(alike[:4])  # two layers are told apart
    assert ranges([7, 3, 2, 4, 4]) == "2 to 4, 7"


@pytest.mark.parametrize("rows_of", [sat_rows, diffusers_rows, our_rows])
@pytest.mark.parametrize("kind", [name for name in PRESETS if name != "cogvideox-2b"])
def test_a_wrong_preset_is_told_in_a_few_lines_with_the_right_one(rows_of, kind):
    found = tensors_of(kind, rows_of)
    theirs, network = registry.preset(kind).network, registry.preset("cogvideox-2b").network
    assert misfits(rows_of, theirs, kind, found) == (0, [])
    count, lines = misfits(rows_of, network, "cogvideox-2b", found)
    assert count > 200
    assert len(lines) < 14
    assert f"hidden size: {theirs.hidden_size:,} in the tensors, 1,920 in the network (cogvideox-2b)" in lines
    assert f"layers: {theirs.num_layers} in the tensors, 30 in the network (cogvideox-2b)" in lines
    assert lines[-1] == f"accepted: --model {kind}, whose sizes the tensors have"
    assert lines[-2].startswith("... and ")


def test_networks_of_no_preset():
    found = tensors_of("cogvideox-5b", diffusers_rows)
    found = {name: tuple(n + 1 if n == 4096 else n for n in shape) for name, shape in found.items()}
    _, lines = misfits(diffusers_rows, registry.preset("cogvideox-2b").network, "cogvideox-2b", found)
    assert lines[-1] == (
        "no preset has these sizes; the closest is cogvideox-5b, which differs in: width of the text embeddings"
    )


def test_each_format_says_what_differs(tmp_path):
    checkpoint.convert(sat("5b"), tmp_path / "run", save_format="megatron")
    for folder in (sat("5b"), diffusers("5b"), tmp_path / "run"):
        with pytest.raises(ConversionError) as failure:
            open_weights(folder, model="cogvideox-5b")
        lines = str(failure.value).splitlines()
        assert len(lines) < 16
        assert "layers: 2 in the tensors, 42 in the network (cogvideox-5b)" in lines
        assert "layers 2 to 41 of 42: missing, with all tensors" in lines


def test_a_last_layer_that_is_missing(tiny, tmp_path):
    """Configuration and --model tell the depth; without them the file does, and that is said."""
    whole = open_weights(tiny)
    assert whole.warnings == []
    drop_layers(tiny, 3)
    with pytest.raises(ConversionError, match=r"(?s)layers: 3 in the tensors, 4 in .*\nlayer 3 of 4: missing"):
        open_weights(tiny)
    (tiny / "model_config.json").unlink()
    with pytest.raises(ConversionError, match="layer 3 of 4: missing, with all tensors"):
        open_weights(tiny, model="cogvideox-tiny")
    told = []
    result = checkpoint.convert(tiny, tmp_path / "out", save_format="diffusers", warn=told.append)
    assert result.warnings == told
    assert "told by its tensors: 3 layers, hidden size 64, 4 heads" in told[0]
    assert "has all sizes of cogvideox-tiny but 3 layers instead of 4. If layer 3 should be in it" in told[1]
    assert "--model cogvideox-tiny refuses" in told[1]


def test_a_layer_missing_in_between(tiny):
    (tiny / "model_config.json").unlink()
    drop_layers(tiny, 0, 2)
    for model in (None, "cogvideox-tiny"):
        with pytest.raises(ConversionError, match=r"has layers 1, 3, so layer 0, 2 is missing"):
            open_weights(tiny, model=model)
    name = f"{SAT_PREFIX}transformer.layers.999999999.input_layernorm.weight"
    change(tiny, lambda m: m.update({name: torch.zeros(64)}), tag="1")
    with pytest.raises(ConversionError, match=r"layer 0, 2, 4 to 999999998 is missing"):
        open_weights(tiny)


def test_whole_files_of_a_preset_are_not_suspected(tiny):
    (tiny / "model_config.json").unlink()
    (warning,) = open_weights(tiny).warnings
    assert "4 layers, hidden size 64" in warning


TEXT_PROJ = "mixins.patch_embed.text_proj.weight"


def spoil(module):
    module[SAT_PREFIX + TEXT_PROJ][0, :3] = torch.nan
    module[SAT_PREFIX + TEXT_PROJ][1, 0] = torch.inf
    module[f"{SAT_PREFIX}transformer.layers.1.attention.query_key_value.weight"][0, 0] = -torch.inf


@pytest.mark.parametrize("save_format", ["sat", "diffusers", "megatron"])
def test_values_that_are_not_finite_are_told_and_kept(save_format, tmp_path):
    folder = copy_sat("5b", tmp_path / "in")
    change(folder, spoil)
    result = checkpoint.convert(folder, tmp_path / "out", save_format=save_format, verify=True)
    warnings = result.warnings[-3:]
    assert warnings[0].startswith(f"{folder}: the source holds values that are not finite, in 2 tensors;")
    assert warnings[1:] == [
        f"{TEXT_PROJ}: 3 NaN, 1 infinite of 2,560",
        "transformer.layers.1.attention.query_key_value.weight: 1 infinite of 12,288",
    ]
    assert "outputs of both are not finite" in result.verification.lines[1]
    back = checkpoint.convert(tmp_path / "out", tmp_path / "back", save_format="sat")
    assert_same(tmp_path / "back", folder)
    assert sum("of 2,560" in warning for warning in back.warnings) == 1  # by the names of the format that is read


def test_finite_weights_have_no_warning(tmp_path):
    result = checkpoint.convert(diffusers("5b"), tmp_path / "out", save_format="megatron")
    assert result.warnings == []


def test_fp16_that_cannot_hold_a_value_is_refused(tmp_path):
    folder = copy_sat("5b", tmp_path / "in")
    change(folder, lambda m: m[SAT_PREFIX + TEXT_PROJ][0].fill_(1e6))
    with pytest.raises(ConversionError, match=r"--dtype fp16: 40 values of embedding.text_proj.weight .*65,504"):
        checkpoint.convert(folder, tmp_path / "out", save_format="diffusers", dtype="fp16")
    assert list(tmp_path.iterdir()) == [folder]


def test_paths_may_be_strings(tmp_path, monkeypatch):
    """Everything of vidtron.checkpoint that takes a path and needs no process group."""
    monkeypatch.chdir(tmp_path)
    checkpoint.convert(str(diffusers("5b")), "base", save_format="megatron")
    weights = checkpoint.open_weights("base")
    assert weights.read("decoder.layers.0.mlp.linear_fc1.weight").shape == (256, 64)
    assert checkpoint.detect_format("base") == "megatron"
    folder = "base/iter_0000000"
    assert str(checkpoint.latest("base")) == folder
    assert [str(path) for path in checkpoint.completed("base")] == [folder]
    assert checkpoint.is_complete(folder)
    assert checkpoint.iteration_of(folder) == 0
    assert checkpoint.holds_weights_only(folder)
    assert checkpoint.ema_names_in(folder) == []
    assert checkpoint.base_errors(folder, None) == []
    assert "--lora-base base: base/iter_0000000 does not hold" in checkpoint.base_errors(folder, "base")[0]
    assert "decoder.final_layernorm.weight" in checkpoint.read_full_state(folder)
    assert checkpoint.read_state(folder)["weights_only"] is True
    assert checkpoint.prune("base", 1) == []

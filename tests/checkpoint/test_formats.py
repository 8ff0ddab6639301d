"""Written files in the hands of their own readers; diffusers' folders; targets that are whole or absent."""

import json
import pickle
import shutil

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.mapping import ShardedTensor
from megatron.core.dist_checkpointing.validation import StrictHandling

from tests.checkpoint.checkpoints import VARIANTS, assert_same, contents, copy_sat, diffusers, load_sat, rank_file, sat
from tests.reference import cogvideox_oracle as oracle
from vidtron import checkpoint
from vidtron.checkpoint import ConversionError, conversion
from vidtron.checkpoint.conversion_verification import our_output
from vidtron.checkpoint.formats import config_folder, open_weights
from vidtron.checkpoint.formats.config_folder import ConfigFolderTarget
from vidtron.config.world import World
from vidtron.models.inputs import ModelInput
from vidtron.models.layers.checkpoint_rules import bits_equal
from vidtron.parallel import initialized


def load_with_mcore(rank, folder, shapes):
    """Job: all tensors, by megatron-core's own reader, which refuses any that is missing or left over."""
    run = oracle.run_config("2b", {})
    with initialized(run, World.from_environment()):
        request = {
            name: ShardedTensor.from_rank_offsets(name, torch.empty(shape, dtype=torch.bfloat16))
            for name, shape in shapes.items()
        }
        return dist_checkpointing.load(request, str(folder), strict=StrictHandling.RAISE_UNEXPECTED)


@pytest.mark.parametrize("variant", VARIANTS)
def test_stock_readers_load_what_is_written(pool, variant, tmp_path):
    checkpoint.convert(sat(variant), tmp_path / "run", save_format="megatron")
    source = open_weights(sat(variant))
    expected = {row.ours: source.read(row.ours) for row in source.rows}
    shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    loaded = pool.run(load_with_mcore, 1, checkpoint.latest(tmp_path / "run"), shapes)[0]
    assert loaded["state"]["weights_only"] is True
    assert all(bits_equal(loaded[name], tensor) for name, tensor in expected.items())

    checkpoint.convert(sat(variant), tmp_path / "sat", save_format="sat")
    path = rank_file(tmp_path / "sat", tag="1")
    for mmap in (False, True):
        stored = torch.load(path, weights_only=True, mmap=mmap)
        assert stored.keys() == {"module"}
        upstream = load_sat(rank_file(sat(variant)))
        assert stored["module"].keys() == upstream.keys()
        assert all(bits_equal(tensor, upstream[name]) for name, tensor in stored["module"].items())
        assert all(tensor.is_contiguous() for tensor in stored["module"].values())


def diffusers_inputs(variant, io):
    network = oracle.NETWORKS[variant]
    latents = torch.cat((io["x"], io["image_latents"]), dim=2) if "image_latents" in io else io["x"]
    grid = network.grid(io["x"].shape[1], *io["x"].shape[3:])
    inputs = {"hidden_states": latents, "timestep": io["timesteps"], "encoder_hidden_states": io["context"]}
    if network.position == "rotary":
        from vidtron.models.layers.rotary import angles_3d

        angles = angles_3d(*grid, network.head_dim)
        inputs["image_rotary_emb"] = (angles.cos(), angles.sin())
    if network.ofs_embedding:
        inputs["ofs"] = io["ofs"]
    return inputs


@pytest.mark.parametrize("variant", VARIANTS)
def test_networks_give_upstreams_outputs(variant, tmp_path):
    """The converted folder in diffusers' network; both formats in ours, with either epsilon."""
    checkpoint.convert(sat(variant), tmp_path / "out", save_format="diffusers")
    io = torch.load(oracle.folder(variant) / "io.pt", weights_only=True)
    model = CogVideoXTransformer3DModel.from_pretrained(tmp_path / "out", torch_dtype=torch.float32).eval()
    oracle.exact_times(model, io["timesteps"])
    with torch.no_grad():
        output = model(**diffusers_inputs(variant, io)).sample
    assert (output - io["out_diffusers"]).abs().max() < 2e-5
    ours = ModelInput.of(io["x"], io["timesteps"], io["context"], image_latents_BTCHW=io.get("image_latents"))
    for folder, name in ((tmp_path / "out", "out_diffusers"), (sat(variant), "out_sat")):
        source = open_weights(folder)
        assert (our_output(source, ours) - io[name]).abs().max() < 2e-5


@pytest.mark.parametrize("load", [sat, diffusers])
@pytest.mark.parametrize("save_format", ["sat", "diffusers", "megatron"])
def test_verify(load, save_format, tmp_path):
    result = checkpoint.convert(load("1.5_5b_i2v"), tmp_path / "out", save_format=save_format, verify=True)
    differences = result.verification.differences
    assert differences["vidtron's network, source and target weights"] == 0
    foreign = [value for name, value in differences.items() if name.startswith("diffusers' network")]
    assert len(foreign) == (load is diffusers or save_format == "diffusers")
    # Another implementation: where last bits differ (tests/last_bits.py) the two are more than 2e-5 apart.
    assert all(value < 1e-4 for value in foreign)
    assert result.verification.lines[0] == "56 tensors read back: equal in every bit"


def test_verify_finds_a_wrong_tensor(tmp_path, monkeypatch):
    """Nothing is left under the target's name."""
    monkeypatch.setattr(conversion, "cast", lambda tensor, spec: tensor.to(spec.dtype) + (tensor.dim() == 2))
    with pytest.raises(ConversionError, match=r"not what they were[\s\S]*time_embed.0.weight"):
        checkpoint.convert(sat("2b"), tmp_path / "out", save_format="diffusers", verify=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_change_of_type(dtype, tmp_path):
    name = {torch.float32: "fp32", torch.float16: "fp16"}[dtype]
    checkpoint.convert(sat("2b"), tmp_path / "out", save_format="diffusers", dtype=name, verify=True)
    expected = contents(diffusers("2b"))
    assert all(bits_equal(t, expected[n].to(dtype)) for n, t in contents(tmp_path / "out").items())
    # bf16 weights survive fp32, and come back.
    if dtype == torch.float32:
        checkpoint.convert(tmp_path / "out", tmp_path / "back", save_format="diffusers", dtype="bf16")
        assert_same(tmp_path / "back", diffusers("2b"))


def test_shards_with_an_index(tmp_path, monkeypatch):
    monkeypatch.setattr(config_folder, "ConfigFolderTarget", lambda *a: ConfigFolderTarget(*a, shard_bytes=60_000))
    checkpoint.convert(sat("5b"), tmp_path / "out" / "transformer", save_format="diffusers")
    files = sorted(path.name for path in (tmp_path / "out" / "transformer").glob("*.safetensors"))
    assert len(files) > 3 and files[0] == f"diffusion_pytorch_model-00001-of-{len(files):05d}.safetensors"
    assert_same(tmp_path / "out", diffusers("5b"))
    model = CogVideoXTransformer3DModel.from_pretrained(tmp_path / "out", subfolder="transformer")
    assert model.config.num_layers == 2
    checkpoint.convert(tmp_path / "out", tmp_path / "sat", save_format="sat")
    assert_same(tmp_path / "sat", sat("5b"))
    (tmp_path / "out" / "transformer" / files[1]).unlink()
    with pytest.raises(ConversionError, match=f"shards are missing: {files[1]}"):
        open_weights(tmp_path / "out")


def test_damaged_diffusers_folders(tmp_path):
    folder = tmp_path / "in"
    shutil.copytree(diffusers("2b") / "transformer", folder)
    weights = folder / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ConversionError, match="truncated or damaged"):
        open_weights(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "norm_eps": 1e-4, "activation_fn": "geglu"}))
    with pytest.raises(ConversionError, match=r"activation_fn: 'geglu'[\s\S]*norm_eps: 0.0001"):
        open_weights(folder)
    with pytest.raises(ConversionError, match="--ema"):
        open_weights(diffusers("2b"), ema=True)
    with pytest.raises(ConversionError, match="no checkpoint; accepted"):
        open_weights(tmp_path)


def test_targets_are_not_overwritten_unasked(tmp_path):
    (tmp_path / "out").mkdir()
    checkpoint.convert(sat("2b"), tmp_path / "out", save_format="diffusers")  # an empty folder is as good as none
    with pytest.raises(FileExistsError, match="--overwrite"):
        checkpoint.convert(sat("5b"), tmp_path / "out", save_format="diffusers")
    assert_same(tmp_path / "out", diffusers("2b"))
    checkpoint.convert(sat("5b"), tmp_path / "out", save_format="diffusers", overwrite=True)
    assert_same(tmp_path / "out", diffusers("5b"))
    folder = copy_sat("2b", tmp_path / "sat")
    for target in (folder, folder / "1000" / "new", tmp_path):
        with pytest.raises(ConversionError, match="lies within"):
            checkpoint.convert(folder, target, save_format="sat", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "sat"]


class _Harmful:
    def __reduce__(self):
        return print, ("code ran",)


def test_damaged_and_harmful_checkpoints_of_ours(tmp_path, capsys):
    checkpoint.convert(sat("2b"), tmp_path / "run", save_format="megatron")
    folder = checkpoint.latest(tmp_path / "run")
    data = folder / "__0_0.distcp"
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    with pytest.raises(ConversionError, match=r"__0_0.distcp: damaged: [\d,]+ bytes, [\d,]+ were written"):
        checkpoint.convert(tmp_path / "run", tmp_path / "out", save_format="sat")
    with pytest.raises(ConversionError, match=r"__0_0.distcp: damaged: it ends before"):
        checkpoint.convert(tmp_path / "run", tmp_path / "out", save_format="sat", verify_checkpoint=False)
    for harmful in (_Harmful(), checkpoint.completed):
        (folder / ".metadata").write_bytes(pickle.dumps(harmful))
        with pytest.raises(ConversionError, match="no part of a checkpoint's metadata"):
            open_weights(tmp_path / "run")
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize("save_format", ["sat", "diffusers", "megatron"])
def test_an_interrupted_conversion_never_looks_complete(save_format, tmp_path):
    """At no moment is there a checkpoint under any name that readers take for one."""

    class Killed(BaseException):
        pass

    def progress(names):
        for number, name in enumerate(names):
            assert all(checkpoint.detect_format(path) is None for path in [tmp_path, *tmp_path.iterdir()])
            assert not (tmp_path / "out").exists()
            if number == 40:
                raise Killed
            yield name

    with pytest.raises(Killed):
        checkpoint.convert(sat("2b"), tmp_path / "out", save_format=save_format, progress=progress)
    assert list(tmp_path.iterdir()) == []

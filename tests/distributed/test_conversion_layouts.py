"""Whatever layout wrote a checkpoint, it converts alike; a run starts from any format in any layout."""

import dataclasses
import shutil

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from safetensors.torch import load_file

from tests.checkpoint.checkpoints import contents
from tests.distributed.layouts import small_run, train
from vidtron import checkpoint
from vidtron.checkpoint.conversion_verification import drawn_input, our_output
from vidtron.checkpoint.formats import open_weights
from vidtron.config.world import World
from vidtron.models.build import build_chunks
from vidtron.models.cogvideox.family import CogVideoXFamily
from vidtron.models.layers.checkpoint_rules import bits_equal
from vidtron.models.layers.rotary import angles_3d
from vidtron.parallel import initialized
from vidtron.training.assembly import assemble

TP2_PP2 = {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2}
TP2_SP = {"tensor_model_parallel_size": 2, "sequence_parallel": True, "use_distributed_optimizer": True}


def save_initial_weights(rank, run, folder):
    """Job: the network's initial weights, which no layout changes, as a checkpoint."""
    with initialized(run, World.from_environment()) as groups:
        chunks = build_chunks(CogVideoXFamily(), run, groups)
        from vidtron.config import yaml_file

        writer = checkpoint.CheckpointWriter(folder, groups, config_yaml=yaml_file.dump(run))
        writer.save(5, chunks, None, None, {"iteration": 5})


@pytest.mark.parametrize("save_format", ["sat", "diffusers", "megatron"])
def test_layouts_convert_to_the_same_bytes(pool, save_format, tmp_path):
    for name, ranks, layout in (("one", 1, {}), ("four", 4, TP2_PP2)):
        pool.run(save_initial_weights, ranks, small_run("", **layout), tmp_path / name / "run")
        run_yaml = next((tmp_path / name / "run").glob("iter_*/config.yaml"))
        run_yaml.write_text(run_yaml.read_text().replace("model_parallel_size: 2", "model_parallel_size: 1"))
        checkpoint.convert(
            tmp_path / name / "run",
            tmp_path / name / "out",
            save_format=save_format,
            verify=True,
            verify_checkpoint=False,  # config.yaml is another now
        )
    one, four = (
        {str(path.relative_to(tmp_path / name / "out")): path for path in (tmp_path / name / "out").rglob("*.*")}
        for name in ("one", "four")
    )
    assert one.keys() == four.keys()
    assert [name for name in one if one[name].is_file() and one[name].read_bytes() != four[name].read_bytes()] == []


def test_a_run_fine_tuned_on_two_ranks_gives_the_same_in_diffusers(pool, shards, tmp_path):
    """From diffusers' weights, and back to them; --dtype fp32 takes the optimizer's fp32 weights."""
    pool.run(save_initial_weights, 1, small_run("", final_norm_eps=1e-5), tmp_path / "first")
    checkpoint.convert(tmp_path / "first", tmp_path / "base", save_format="diffusers")
    flags = {"bf16": True, "final_norm_eps": 1e-5, "train_iters": 3, "lr": 1e-2, "save": tmp_path / "run"}
    pool.run(train, 2, small_run(shards, load=tmp_path / "base", finetune=True, **TP2_SP, **flags))
    run = checkpoint.latest(tmp_path / "run")
    assert run is not None and run.name == "iter_0000003"
    kept = checkpoint.read_full_state(run, optimizer=True)

    result = checkpoint.convert(tmp_path / "run", tmp_path / "out", save_format="diffusers", dtype="fp32", verify=True)
    assert any(note.startswith("fp32 weights of the optimizer") for note in result.notes)
    master = kept["optimizer.state.param.decoder.layers.1.mlp.linear_fc1.weight"]
    weight = load_file(tmp_path / "out" / "diffusion_pytorch_model.safetensors")[
        "transformer_blocks.1.ff.net.0.proj.weight"
    ]
    assert bits_equal(weight, master)
    assert not bits_equal(weight, weight.bfloat16().float())
    base = contents(tmp_path / "base")["transformer_blocks.1.ff.net.0.proj.weight"]
    assert (weight - base).abs().max() > 1e-3  # it has learned

    source = open_weights(tmp_path / "run", fp32=True)
    inputs = drawn_input(source.family.small_sample(source.network))
    model = CogVideoXTransformer3DModel.from_pretrained(tmp_path / "out").eval()
    latents, text_BLE = inputs.noisy_BTCHW, inputs.conditions.texts[0].states_BLE
    angles = angles_3d(*source.network.grid(latents.shape[1], *latents.shape[3:]), source.network.head_dim)
    with torch.no_grad():
        output = model(latents, text_BLE, inputs.timesteps, image_rotary_emb=(angles.cos(), angles.sin())).sample
    assert (output - our_output(source, inputs)).abs().max() < 2e-5


def first_losses(rank, run):
    return train(rank, run).losses


def test_a_run_starts_alike_from_every_format_in_every_layout(pool, shards, tmp_path):
    pool.run(save_initial_weights, 1, small_run("", seed=7), tmp_path / "first")
    weights = {"first": tmp_path / "first"}
    for save_format in ("sat", "diffusers", "megatron"):
        weights[save_format] = tmp_path / save_format
        checkpoint.convert(tmp_path / "first", weights[save_format], save_format=save_format)
    losses = {
        (name, ranks): pool.run(
            first_losses, ranks, small_run(shards, load=path, finetune=name == "first", train_iters=2, **layout)
        )[0]
        for name, path in weights.items()
        for ranks, layout in ((1, {}), (4, TP2_PP2))
    }
    untouched = pool.run(first_losses, 1, small_run(shards, train_iters=2))[0]
    expected = losses["first", 1]
    assert abs(expected[0] - untouched[0]) > 1e-4
    for case, values in losses.items():
        assert values == pytest.approx(expected, rel=1e-5), case


def master_weights_match(rank, run):
    """Job: after starting from weights, the optimizer's fp32 copies are theirs."""
    from vidtron.training.resume import likely_choice
    from vidtron.training.starting_weights import start_from, weights_at

    with initialized(run, World.from_environment()) as groups:
        model = assemble(CogVideoXFamily(), run, groups)
        weights = weights_at(run.checkpoint, likely_choice(run.checkpoint).path)
        assert weights is not None
        remarks = start_from(weights, run, model, groups)
        mains = [p.main_param for chunk in model.modules for p in chunk.parameters()]
        params = [p for chunk in model.modules for p in chunk.parameters()]
        return remarks, all(torch.equal(a.float(), b.float()) for a, b in zip(mains, params, strict=True))


def test_the_optimizer_starts_from_the_weights_too(pool, tmp_path):
    pool.run(save_initial_weights, 1, small_run("", seed=7), tmp_path / "first")
    checkpoint.convert(tmp_path / "first", tmp_path / "base", save_format="diffusers")
    remarks, same = pool.run(master_weights_match, 1, small_run("", load=tmp_path / "base", bf16=True))[0]
    assert same
    assert remarks[0] == f"starting from the weights of {tmp_path / 'base'} (diffusers)"
    assert "--final-norm-eps 1e-05 keeps it" in remarks[1]


def test_averages_are_exported_by_name(pool, tmp_path):
    """Tensors under ema.AVERAGE.WEIGHT."""
    pool.run(save_initial_weights, 1, small_run(""), tmp_path / "first")
    run = checkpoint.latest(tmp_path / "first")
    assert run is not None
    from vidtron.checkpoint.tensor_files import TensorSpec
    from vidtron.checkpoint.torch_dist_files import TorchDistWriter

    state = checkpoint.read_full_state(run)
    averages = {f"ema.{a}.{name}": t * f for a, f in (("0.99", 2.0), ("power_0.1", 3.0)) for name, t in state.items()}
    everything = {**state, **averages}
    folder = tmp_path / "averaged" / run.name
    folder.mkdir(parents=True)
    specs = {name: TensorSpec(tuple(t.shape), t.dtype) for name, t in everything.items()}
    writer = TorchDistWriter(folder, specs, [])
    for name, tensor in everything.items():
        writer.write(name, tensor)
    writer.finish({"state": {}})
    shutil.copy(run / "config.yaml", folder)
    weights = open_weights(folder.parent)
    assert torch.equal(weights.read("final.proj.weight"), state["final.proj.weight"])
    average = open_weights(folder.parent, ema="power_0.1")
    assert torch.equal(average.read("final.proj.weight"), state["final.proj.weight"] * 3)
    with pytest.raises(checkpoint.ConversionError, match=r"the averages 0.99, power_0.1; accepted: one of them"):
        open_weights(folder.parent, ema=True)
    with pytest.raises(checkpoint.ConversionError, match=r"--ema 0\.5"):
        open_weights(folder.parent, ema="0.5")


def test_another_network_is_refused_before_any_rank_works(pool, shards, tmp_path):
    from vidtron.training.checks import check

    pool.run(save_initial_weights, 1, small_run(""), tmp_path / "first")
    checkpoint.convert(tmp_path / "first", tmp_path / "base", save_format="sat")
    world = World(size=1, rank=0, local_rank=0, has_cuda=False)
    wider = small_run(shards, load=tmp_path / "base")
    wider.network = dataclasses.replace(wider.network, text_width=24)
    errors = check(wider, world)
    assert "mixins.patch_embed.text_proj.weight: shape [64, 16]; the network has [64, 24]" in errors
    assert check(small_run(shards, load=tmp_path / "base"), world) == []
    (error,) = check(small_run(shards, load=tmp_path / "base", save=tmp_path / "first"), world)
    assert error.startswith(f"--save {tmp_path / 'first'}: holds checkpoints of another run")

"""The network on a GPU, with mcore's layers and with Transformer Engine's, against the CPU.

Needs one GPU; the tests of Transformer Engine need its package as well.
"""

import dataclasses
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from vidtron import checkpoint
from vidtron.config.run import RunConfig
from vidtron.config.world import World, installed_packages
from vidtron.models.inputs import ModelInput
from vidtron.models.registry import family_of, preset
from vidtron.parallel import initialized
from vidtron.training.assembly import assemble

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).parents[2]
MODEL = "cogvideox-tiny"
needs_te = pytest.mark.skipif("transformer_engine" not in installed_packages(), reason="no Transformer Engine")
RECIPES = ("delayed", "tensorwise", "blockwise")


def run_of(**precision) -> RunConfig:
    """A small run whose sizes suit FP8: every matrix side a multiple of 16."""
    network = dataclasses.replace(preset(MODEL).network, num_layers=2, hidden_size=256, num_attention_heads=4)
    run = RunConfig(model=MODEL, network=network)
    run.data.num_frames, run.data.height, run.data.width = 9, 64, 96
    for name, value in precision.items():
        setattr(run.precision, name, value)
    return run


def output_and_gradient_norm(run: RunConfig, *, cuda: bool) -> tuple[torch.Tensor, float]:
    """The network's output for fixed inputs and the norm of the gradient of its mean square, on the CPU."""
    world = World(size=1, rank=0, local_rank=0, has_cuda=cuda)
    with initialized(run, world) as groups:
        family = family_of(MODEL)
        model = assemble(family, run, groups)
        generator = torch.Generator().manual_seed(5)
        shape = (2, *family.latent_shape(run))
        noisy, text = (
            torch.randn(s, generator=generator).to(groups.device)
            for s in (shape, (2, run.network.text_length, run.network.text_width))
        )
        chunk = model.chunks[0].train()
        model.zero_grad()
        timesteps = torch.tensor([801, 12], device=groups.device)
        output = chunk(inputs=ModelInput.of(noisy, timesteps, text))
        output.float().square().mean().backward()
        chunk.finish_grad_sync()
        return output.detach().float().cpu(), model.gradient_norm()


@pytest.fixture(scope="module")
def on_cpu():
    """The same on the CPU, in a process that sees no GPU (mcore is adapted to the CPU only there)."""
    code = (
        "import sys, torch; from tests.gpu.test_transformer_engine import *;"
        "torch.save(output_and_gradient_norm(run_of(transformer_impl='local'), cuda=False), sys.argv[1])"
    )
    with tempfile.NamedTemporaryFile(suffix=".pt") as file:
        hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        subprocess.run([sys.executable, "-c", code, file.name], env=hidden, cwd=ROOT, check=True)
        return torch.load(file.name, weights_only=True)


def test_local_layers_in_fp32(on_cpu):
    output, norm = output_and_gradient_norm(run_of(transformer_impl="local"), cuda=True)
    assert relative(output, on_cpu[0]) < 1e-4
    assert norm == pytest.approx(on_cpu[1], rel=1e-4)


def relative(ours: torch.Tensor, reference: torch.Tensor) -> float:
    return float((ours - reference).norm() / reference.norm())


def test_local_layers_in_bf16(on_cpu):
    output, norm = output_and_gradient_norm(run_of(transformer_impl="local", bf16=True), cuda=True)
    assert relative(output, on_cpu[0]) < 2e-2
    assert norm == pytest.approx(on_cpu[1], rel=3e-2)


@needs_te
def test_transformer_engine_in_fp32(on_cpu):
    output, norm = output_and_gradient_norm(run_of(transformer_impl="transformer_engine"), cuda=True)
    assert relative(output, on_cpu[0]) < 5e-3  # TF32 products
    assert norm == pytest.approx(on_cpu[1], rel=1e-2)


@needs_te
def test_transformer_engine_in_bf16(on_cpu):
    output, norm = output_and_gradient_norm(run_of(transformer_impl="transformer_engine", bf16=True), cuda=True)
    assert relative(output, on_cpu[0]) < 2e-2
    assert norm == pytest.approx(on_cpu[1], rel=3e-2)


@needs_te
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("recompute", [None, "full"])
def test_fp8(on_cpu, recipe, recompute):
    precision = {"bf16": True, "fp8_format": "hybrid", "fp8_recipe": recipe, "transformer_impl": "transformer_engine"}
    if recompute:
        precision |= {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    output, norm = output_and_gradient_norm(run_of(**precision), cuda=True)
    assert relative(output, on_cpu[0]) < 0.1
    assert norm == pytest.approx(on_cpu[1], rel=0.1)


@needs_te
@pytest.mark.parametrize("fp8_recipe", [None, *RECIPES])
def test_training_on_the_gpu(shards, tmp_path, fp8_recipe):
    """The whole trainer: the loss falls, and the checkpoint holds the weights."""
    from tests.distributed.layouts import small_run
    from vidtron import training

    run = small_run(
        shards,
        hidden_size=256,
        num_attention_heads=4,
        text_length=16,
        height=64,
        width=96,
        bf16=True,
        train_iters=30,
        use_distributed_optimizer=True,
        transformer_impl="transformer_engine",
        fp8_format=None if fp8_recipe is None else "hybrid",
        fp8_recipe=fp8_recipe or "delayed",
        save=tmp_path / "run",
    )
    result = training.run(run, World.from_environment())
    assert sum(result.losses[-5:]) < sum(result.losses[:5])
    weights = checkpoint.read_full_state(checkpoint.latest(tmp_path / "run"))
    assert all(torch.isfinite(weight.float()).all() for weight in weights.values())

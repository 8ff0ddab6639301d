"""docs/fine-tune.md: its commands, in their order, on a tiny model and two ranks."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.data.clip_files import write_clips
from tests.encoders.tiny_folders import make_tiny_t5, make_tiny_vae
from tests.shards import encoded, moving_colours_THWC
from vidtron.checkpoint.formats import Content, format_named
from vidtron.checkpoint.tensor_files import TensorSpec
from vidtron.models.cogvideox.checkpoint_names import our_rows, sizes
from vidtron.models.foreign import SampleSize
from vidtron.models.registry import preset

ROOT = Path(__file__).parents[1]
TINY = {
    "cogvideox-5b": "cogvideox-tiny",
    "--height 480 --fps 8": "--height 64 --fps 8",
    "--nproc-per-node 8": "--nproc-per-node 2",
    "--global-batch-size 32": "--global-batch-size 2",
    "--lr 1e-5 --lr-warmup-iters 100": "--lr 1e-3 --lr-warmup-iters 0",
    "--train-iters 1000": "--train-iters 2",
    "--save-interval 250": "--save-interval 1",
    "--train-iters 1500": "--train-iters 3",
    "num_inference_steps=50": "num_inference_steps=2, height=64, width=96, num_frames=17",
    'pipeline.to("cuda")': 'pipeline.to("cpu")',
    "torch.bfloat16": "torch.float32",
}
"""What the page says -> what a test can do; each must be on the page."""


def blocks(language: str) -> list[str]:
    text = (ROOT / "docs" / "fine-tune.md").read_text(encoding="utf-8")
    found = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    for original, replacement in TINY.items():
        assert original in text, original
        found = [block.replace(original, replacement) for block in found]
    return found


def write_transformer(folder: Path) -> None:
    network = preset("cogvideox-tiny").network
    letters = sizes(network)
    specs = {row.ours: TensorSpec(row.our_shape(letters), torch.float32) for row in our_rows(network)}
    folder.mkdir(parents=True)
    target = format_named("diffusers", "--save-format").target(
        folder, Content("cogvideox-tiny", network, specs, SampleSize(17, 8, 12)), {}
    )
    generator = torch.Generator().manual_seed(0)
    for name, spec in specs.items():
        target.write(name, torch.randn(spec.shape, generator=generator) * 0.1)
    target.finish()


def write_pipeline(folder: Path) -> None:
    """A CogVideoX pipeline with tiny parts."""
    from diffusers import (
        AutoencoderKLCogVideoX,
        CogVideoXDDIMScheduler,
        CogVideoXPipeline,
        CogVideoXTransformer3DModel,
    )
    from transformers import AutoTokenizer, T5EncoderModel

    write_transformer(folder.parent / "parts" / "transformer")
    vae = make_tiny_vae(folder.parent / "parts" / "vae")
    t5 = make_tiny_t5(folder.parent / "parts" / "t5")
    CogVideoXPipeline(
        tokenizer=AutoTokenizer.from_pretrained(t5),
        text_encoder=T5EncoderModel.from_pretrained(t5),
        vae=AutoencoderKLCogVideoX.from_pretrained(vae),
        transformer=CogVideoXTransformer3DModel.from_pretrained(folder.parent / "parts" / "transformer"),
        scheduler=CogVideoXDDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True),
    ).save_pretrained(folder)


@pytest.mark.slow
def test_every_command(tmp_path):
    write_pipeline(tmp_path / "CogVideoX-5b")
    clips = {f"clip{n}": encoded(moving_colours_THWC(n, 20, 64, 96)) for n in range(4)}
    write_clips(tmp_path / "CLIPS", clips)
    for name in ("tools", "pretrain_video.py", "vidtron"):
        (tmp_path / name).symlink_to(ROOT / name)
    programs = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    def run(command: list[str]) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    commands = blocks("bash")
    assert len(commands) == 4
    outputs = [run(["bash", "-ec", command]) for command in commands]
    assert "starting from the weights of CogVideoX-5b (diffusers)" in outputs[1]
    assert "final_norm_eps is" not in outputs[1]
    assert "continuing after step 2" in outputs[2]
    assert "equal in every bit" in outputs[3] and "diffusers' network and vidtron's" in outputs[3]
    assert sorted(path.name for path in (tmp_path / "RUN").glob("iter_*")) == [f"iter_000000{n}" for n in (1, 2, 3)]
    (program,) = blocks("python")
    run([sys.executable, "-c", program])
    assert (tmp_path / "bicycle.gif").stat().st_size > 1000

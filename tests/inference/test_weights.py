"""Sampling from weights in other formats: the same network gives the same video."""

import shutil
from dataclasses import replace

import pytest
import torch

from tests.checkpoint import checkpoints
from tests.encoders.tiny_folders import make_tiny_t5, make_tiny_vae
from tests.inference.jobs import SEED, config_of, errors_of, sampled
from vidtron import checkpoint
from vidtron.config.parallel import ParallelConfig
from vidtron.config.world import World
from vidtron.inference import weights
from vidtron.inference.config import SamplingConfig
from vidtron.inference.prompts import Prompt
from vidtron.inference.run import sampled_run

ALONE = World(size=1, rank=0, local_rank=0, has_cuda=False)
SIZE = {"num_frames": 9, "height": 32, "width": 48, "dtype": "fp32"}
PROMPT = [Prompt("a street", 0, SEED)]


def latents_of(pool, ranks, load, flags) -> torch.Tensor:
    """Of the one video."""
    results = pool.run(sampled, ranks, load, PROMPT, {**SIZE, **flags})
    assert [failures for _, failures in results] == [[]] * ranks
    return next(videos[0] for videos, _ in results if videos).latents_TCHW


@pytest.mark.parametrize(
    ("source", "others"),
    [
        # 2B's tables tell a SAT file's text length; 5B's would be upstream's, not the tiny network's.
        (checkpoints.sat("2b"), [checkpoints.diffusers("2b")]),
        (checkpoints.diffusers("5b"), []),
    ],
    ids=["2b", "5b"],
)
def test_every_format_gives_the_same_video(pool, source, others, tmp_path):
    checkpoint.convert(source, tmp_path / "converted", save_format="megatron")
    expected = latents_of(pool, 1, source, {})
    assert expected.std() > 0.1
    tp, pp = ParallelConfig(tensor_model_parallel_size=2), ParallelConfig(pipeline_model_parallel_size=2)
    for load, parallel in ((tmp_path / "converted", tp), (source, pp)):
        found = latents_of(pool, 2, load, {"parallel": parallel})
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    for load in others:  # with another epsilon in the last norm
        torch.testing.assert_close(latents_of(pool, 1, load, {}), expected, rtol=0, atol=1e-2)


def test_a_pipeline_brings_its_encoders(pool, tmp_path):
    shutil.copytree(checkpoints.diffusers("5b") / "transformer", tmp_path / "transformer")
    width = weights.configuration_of(SamplingConfig(tmp_path)).network.text_width
    channels = weights.configuration_of(SamplingConfig(tmp_path)).network.out_channels
    make_tiny_vae(tmp_path / "vae", channels)
    make_tiny_t5(tmp_path / "text_encoder", width)
    (tmp_path / "tokenizer").mkdir()
    for file in (tmp_path / "text_encoder").glob("*token*.json"):
        file.rename(tmp_path / "tokenizer" / file.name)
    flags = {"vae_tiling": True, "vae_frames_at_once": 4}
    run = sampled_run(config_of(tmp_path, **SIZE, **flags), ALONE)
    assert run.encoders.vae_path == run.encoders.text_encoder_path == tmp_path
    ((videos, failures),) = pool.run(sampled, 1, tmp_path, PROMPT, {**SIZE, **flags})
    assert failures == [] and videos[0].frames_TCHW.shape == (9, 3, 32, 48)


def test_types(tmp_path):
    source = checkpoints.sat("5b")
    checkpoint.convert(source, tmp_path / "half", save_format="diffusers", dtype="fp16")
    checkpoint.convert(source, tmp_path / "whole", save_format="sat", dtype="fp32")
    for load, dtype, bf16 in (
        (source, None, True),
        (source, "fp32", False),
        (tmp_path / "half", None, True),
        (tmp_path / "whole", None, False),
        (tmp_path / "whole", "bf16", True),
    ):
        assert sampled_run(config_of(load, dtype=dtype), ALONE).precision.bf16 is bf16


def test_mistakes(tmp_path, trained):
    sat = checkpoints.sat("5b")
    for flags, message in (
        ({"load": tmp_path}, "no complete checkpoint; accepted: a run folder"),
        ({"load": tmp_path / "nowhere"}, "no complete checkpoint"),
        ({"load": sat, "ema": "0.9"}, "--ema 0.9: a folder of SAT has one set of averages at most; accepted: ema"),
        ({"load": sat, "ema": "ema"}, "for --ema with a TAG-ema"),
        ({"load": checkpoints.diffusers("5b"), "ema": "0.9"}, "--ema: a diffusers folder holds one set of weights"),
        ({"load": sat, "model": "cogvideox-5b"}, "tensors do not fit"),
        ({"load": trained, "model": "cogvideox-5b"}, "names its model itself"),
    ):
        with pytest.raises(ValueError, match=message):
            weights.configuration_of(SamplingConfig(**flags))
    config = replace(config_of(sat, **SIZE), lora_base=tmp_path)
    (error,) = errors_of(ALONE, PROMPT, config)
    assert "does not hold adapters alone" in error

"""Latents of an autoencoder that is normalised by channels: in samples, from a cache, and back to pixels."""

from types import SimpleNamespace

import pytest
import torch

from tests.encoders.tiny_folders import make_tiny_wan_vae
from tests.training.small import small_run
from vidtron.config.data import ClipSize, EncoderConfig
from vidtron.config.text import TextSpec
from vidtron.data.decoding.pixels import pixels_CFHW
from vidtron.encoders import video_autoencoder
from vidtron.encoders.hashed_tokens import HashedTokens
from vidtron.encoders.space_time import CAUSAL
from vidtron.inference.config import SamplingConfig
from vidtron.inference.video_sampler import VideoSampler
from vidtron.models.inputs import VIDEO, SampleSpec
from vidtron.training.encoded import from_tensors, to_tensors
from vidtron.training.sample_maker import SampleMaker

pytest.importorskip("diffusers")
CPU = torch.device("cpu")
SIZE = ClipSize(9, 32, 48)
TEXTS = (TextSpec(6, 16),)


class FakeChunk:
    """All that a sampler asks of a chunk until it samples."""

    config = SimpleNamespace(virtual_pipeline_model_parallel_size=None)

    def eval(self):
        return self


def clip(cached=None):
    frames = torch.randint(0, 256, (9, 3, 32, 48), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return SimpleNamespace(position=7, key="a", caption="a man", size=SIZE, frames_TCHW=frames, cached=cached)


@pytest.mark.parametrize("posterior", ["sample", "mean"])
def test_wans_latents(tmp_path, posterior):
    from diffusers import AutoencoderKLWan

    folder = make_tiny_wan_vae(tmp_path)
    autoencoder = video_autoencoder(EncoderConfig(folder, posterior=posterior), CAUSAL, CPU, torch.float32)
    run = small_run("", text_dropout=0.0, posterior=posterior, scale_factor=None, num_frames=9, height=32, width=48)
    text = HashedTokens(16, 6)
    spec = SampleSpec({VIDEO: (3, 16, 4, 6)}, TEXTS)
    maker = SampleMaker(run, lambda size: spec, autoencoder, [text], CPU, seed=3)
    sample = maker.make(clip())
    latents_TCHW = maker.packing_of(SIZE).unpack(sample)["latents"]

    model = AutoencoderKLWan.from_pretrained(folder).eval()
    with torch.no_grad():
        mean_TCHW = model.encode(pixels_CFHW(clip().frames_TCHW)[None]).latent_dist.mean[0].transpose(0, 1)
    mean, deviation = (torch.tensor(model.config[name]).view(16, 1, 1) for name in ("latents_mean", "latents_std"))
    expected_TCHW = (mean_TCHW - mean) / deviation
    close = torch.allclose(latents_TCHW, expected_TCHW, rtol=1e-4, atol=1e-5)
    assert close == (posterior == "mean")

    empty = [text.encode([""])[0]]
    tensors = to_tensors(maker.encode(clip()), empty, TEXTS)
    assert ("logvar" in tensors) == (posterior == "sample")
    assert torch.equal(maker.make(clip(from_tensors(tensors, empty))), sample)

    groups = SimpleNamespace(device=CPU, pg=None, pp=SimpleNamespace(size=lambda: 1))
    sampler = VideoSampler(SamplingConfig(folder), run, groups, [FakeChunk()], autoencoder, [text])
    with torch.no_grad():
        video_CTHW = model.decode((latents_TCHW * deviation + mean).transpose(0, 1)[None]).sample[0]
    torch.testing.assert_close(sampler.pixels(latents_TCHW), video_CTHW, rtol=1e-4, atol=1e-5)

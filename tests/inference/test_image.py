"""The condition image of image-to-video models."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from tests.distributed.layouts import small_run
from vidtron.config.text import TextSpec
from vidtron.encoders.hashed_tokens import HashedTokens
from vidtron.encoders.space_time import SpaceTimeTransform
from vidtron.inference.config import SamplingConfig
from vidtron.inference.image import read_image
from vidtron.inference.prompts import Prompt
from vidtron.inference.video_sampler import VideoSampler
from vidtron.models.inputs import VIDEO, SampleSpec
from vidtron.training.packing import Packing
from vidtron.training.sample_maker import SampleMaker


@pytest.fixture
def frames():
    return torch.randint(0, 256, (9, 3, 32, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def picture(frames, tmp_path):
    Image.fromarray(frames[0].permute(1, 2, 0).contiguous().numpy()).save(tmp_path / "first.png")
    return tmp_path / "first.png"


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"image_latent_scale": "inverted"},
        {"image_latent_scale": "unscaled"},
        {"image_latent_frames": "all"},
        {"patch_size_t": 2},
    ],
)
def test_the_first_frame_gives_the_latents_of_the_training(frames, picture, flags):
    run = small_run("", in_channels=32, scale_factor=0.7, image_noise=False, image_dropout=0.0, **flags)
    spec = SampleSpec({VIDEO: (4 if "patch_size_t" in flags else 3, 16, 4, 6)}, (TextSpec(6, 16),), True)
    cpu, encoders = torch.device("cpu"), (SpaceTimeTransform(), [HashedTokens(16, 6)])
    clip = SimpleNamespace(position=3, key="a", caption="colours", size=None, cached=None, frames_TCHW=frames)
    trained = Packing(spec).unpack(SampleMaker(run, lambda size: spec, *encoders, cpu, seed=1).make(clip))

    groups = SimpleNamespace(device=cpu, pg=None, pp=SimpleNamespace(size=lambda: 1))
    sampler = VideoSampler(SamplingConfig(picture), run, groups, [FakeChunk()], *encoders)
    conditions = sampler.conditions(Prompt("colours", 0, 1, image=picture)).given
    torch.testing.assert_close(conditions.image_latents_BTCHW[0], trained["image_latents"])
    assert torch.equal(conditions.texts[0].states_BLE[0], trained["text"])
    assert conditions.image_latents_BTCHW.abs().sum() > 0


class FakeChunk:
    """All that a sampler asks of a chunk until it samples."""

    config = SimpleNamespace(virtual_pipeline_model_parallel_size=None)

    def eval(self):
        return self


def test_pictures_are_cut_to_the_size_upright_and_opaque(tmp_path):
    # Left half red, right half blue; stored lying on its side, and transparent at the bottom.
    pixels = torch.zeros(40, 80, 4, dtype=torch.uint8)
    pixels[:, :40, 0] = pixels[:, 40:, 2] = 255
    pixels[:30, :, 3] = 255
    upright = Image.fromarray(pixels.numpy())
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    image_C1HW = read_image(tmp_path / "turned.png", 32, 48)
    assert image_C1HW.shape == (3, 1, 32, 48)
    corners = [image_C1HW[:, 0, row, column].tolist() for row, column in ((2, 2), (2, -3), (-3, 2))]
    torch.testing.assert_close(
        torch.tensor(corners), torch.tensor([[1.0, -1, -1], [-1, -1, 1], [1, 1, 1]]), atol=0.05, rtol=0
    )


def test_what_is_no_picture_is_an_error(tmp_path):
    (tmp_path / "text.png").write_text("no")
    for name in ("text.png", "nothing.png"):
        with pytest.raises(OSError, match=name):
            read_image(tmp_path / name, 32, 48)

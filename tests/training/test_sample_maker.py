from types import SimpleNamespace

import pytest
import torch

from tests.training.small import small_run
from vidtron.config.data import ClipSize
from vidtron.config.geometry import LatentGeometry
from vidtron.config.text import TextSpec
from vidtron.data.decoding.pixels import pixels_CFHW
from vidtron.encoders.base import EncodedText, Posterior
from vidtron.encoders.normalisation import ByFactor
from vidtron.models.inputs import VIDEO, SampleSpec
from vidtron.parallel import sample_generator
from vidtron.training.sample_maker import SampleMaker, bernoulli, pad_latent_frames

CPU = torch.device("cpu")
LATENTS = (4, 2, 2, 3)
FRAMES = 3


class CountingAutoencoder:
    """Latents are the pixel mean of each frame; a posterior with some width."""

    geometry = LatentGeometry(2, 8, 1)
    normalisation = ByFactor()

    def __init__(self):
        self.seen = []

    def encode(self, video_CTHW):
        self.seen.append(video_CTHW)
        mean = video_CTHW.mean(dim=(0, 2, 3)).view(1, -1, 1, 1).expand(2, -1, 2, 3)
        return Posterior(mean, torch.full_like(mean, -2.0))


class LengthText:
    width = 5

    def encode(self, captions):
        states = torch.tensor([[[len(caption)] * 5] * 3 for caption in captions], dtype=torch.float32)
        return EncodedText(states, torch.ones(states.shape[:2], dtype=torch.bool))


class LengthAndOne(LengthText):
    def encode(self, captions):
        encoded = super().encode(captions)
        return EncodedText(encoded.states_BLE + 1, encoded.mask_BL)


def clip(position=7, caption="four"):
    frames = torch.randint(0, 256, (FRAMES, 3, 16, 24), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    size = ClipSize(FRAMES, 16, 24)
    return SimpleNamespace(position=position, key="a", caption=caption, size=size, frames_TCHW=frames, cached=None)


def maker(image=False, latents=LATENTS, **flags):
    defaults = {"text_dropout": 0.0, "image_dropout": 0.0, "scale_factor": 0.5}
    spec = SampleSpec({VIDEO: latents}, (TextSpec(3, 5),), image)
    return SampleMaker(
        small_run(**{**defaults, **flags}), lambda size: spec, CountingAutoencoder(), [LengthText()], CPU, seed=3
    )


def made(sample_maker, sample=None):
    return sample_maker.packing_of(None).unpack(sample_maker.make(sample or clip()))


def test_pixels_become_minus_one_to_one():
    frames = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 4, 5)
    video = pixels_CFHW(frames)
    assert video.shape == (3, 2, 4, 5)
    assert video[:, 0].unique().tolist() == [-1.0]
    assert video[:, 1].unique().tolist() == [1.0]


def test_padding_repeats_the_first_latent_frame():
    latents = torch.arange(3.0).view(3, 1, 1, 1)
    assert pad_latent_frames(latents, 5).flatten().tolist() == [0, 0, 0, 1, 2]
    assert pad_latent_frames(latents, 3).flatten().tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="3 latent frames where the model takes 2"):
        pad_latent_frames(latents, 2)


def test_latents_are_a_scaled_draw_from_the_posterior():
    out = made(maker())
    video = pixels_CFHW(clip().frames_TCHW)
    drawn = CountingAutoencoder().encode(video).sample(sample_generator(3, 7, "posterior")).permute(1, 0, 2, 3)
    torch.testing.assert_close(out["latents"][1:], 0.5 * drawn)
    assert torch.equal(out["latents"][0], out["latents"][1])  # 3 latent frames in a model of 4


def test_noise_is_drawn_whole_from_its_own_stream():
    expected = torch.randn(LATENTS, generator=sample_generator(3, 7, "noise"))
    assert torch.equal(maker().noise(VIDEO, LATENTS, 7), expected)


def test_a_sample_depends_on_nothing_but_its_position():
    first, again = maker(), maker()
    again.make(clip(position=1))
    assert torch.equal(first.make(clip()), again.make(clip()))
    assert not torch.equal(first.make(clip()), first.make(clip(position=8)))


def test_text_dropout():
    assert made(maker())["text"].unique().tolist() == [4.0]
    assert not made(maker(text_dropout=1.0))["text"].any()


def test_dropout_frequency():
    dropped = sum(bernoulli(0.25, 0, position, "caption_dropout") for position in range(2000))
    assert 430 < dropped < 570


def test_without_image_condition_there_is_none():
    assert "image_latents" not in made(maker())


def test_image_condition_is_the_first_frame_alone_with_noise():
    image_maker = maker(image=True)
    out = made(image_maker)
    video, image = image_maker.autoencoder.seen
    assert image.shape == (3, 1, 16, 24)
    generator = sample_generator(3, 7, "image_noise")
    sigma = torch.exp(torch.randn((), generator=generator) * 0.5 - 3.0)
    noise = torch.randn((3, 1, 16, 24), generator=generator)
    torch.testing.assert_close(image, video[:, :1] + sigma * noise)
    assert out["image_latents"][0].any()
    assert not out["image_latents"][1:].any()


def test_image_dropout():
    assert not made(maker(image=True, image_dropout=1.0))["image_latents"].any()


def test_image_condition_leaves_the_other_tensors_alone():
    without, having = made(maker()), made(maker(image=True))
    for name in without:
        assert torch.equal(without[name], having[name])


def test_wrong_size_names_the_sample():
    with pytest.raises(
        ValueError,
        match=r"sample a: latents \(3, 2, 2, 3\) of .* do not fill the model's \(2, 2, 2, 3\)",
    ):
        maker(latents=(2, 2, 2, 3)).make(clip())
    with pytest.raises(ValueError, match="sample a"):
        maker(latents=(4, 2, 4, 3)).make(clip())


def test_dropped_text_may_be_that_of_an_empty_prompt():
    empty = maker(text_dropout=1.0, null_text="empty-prompt")
    empty.text_encoders = [LengthAndOne()]
    assert made(empty)["text"].unique().tolist() == [1.0]


def test_offset_noise_is_one_number_a_sample():
    plain, offset = maker().noise(VIDEO, LATENTS, 7), maker(offset_noise=0.1).noise(VIDEO, LATENTS, 7)
    number = torch.randn((), generator=sample_generator(3, 7, "offset_noise"))
    torch.testing.assert_close(offset, plain + 0.1 * number)


def test_options_of_the_image_condition():
    def image(**flags):
        return made(maker(image=True, image_noise=False, **flags))["image_latents"]

    plain = image()
    torch.testing.assert_close(image(image_latent_scale="unscaled"), plain / 0.5)
    torch.testing.assert_close(image(image_latent_scale="inverted"), plain / 0.25)
    everywhere = image(image_latent_frames="all")
    assert torch.equal(everywhere, plain[:1].expand(4, -1, -1, -1))
    noisy = made(maker(image=True))["image_latents"]
    assert not torch.equal(noisy[0], plain[0])
    quiet = maker(image=True, image_noise=False)
    made(quiet)
    video, condition = quiet.autoencoder.seen
    assert torch.equal(condition, video[:, :1])

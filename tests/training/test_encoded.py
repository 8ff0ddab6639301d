"""Encoded clips: samples made of them equal those made of the clip itself, bit by bit, also after a cache."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.encoders.tiny_folders import make_tiny_t5, make_tiny_vae
from tests.training.small import small_run
from vidtron.config.data import ClipSize, EncoderConfig
from vidtron.config.text import TextSpec
from vidtron.data.decoding.pixels import pixels_CFHW
from vidtron.encoders import video_autoencoder
from vidtron.encoders.base import EncodedText, Posterior
from vidtron.encoders.factory import text_encoder
from vidtron.encoders.space_time import CAUSAL
from vidtron.models.inputs import VIDEO, SampleSpec
from vidtron.parallel import sample_generator
from vidtron.training.encoded import EncodedClip, from_tensors, to_tensors
from vidtron.training.sample_maker import SampleMaker, bernoulli

CPU = torch.device("cpu")
SIZE = ClipSize(9, 16, 24)
WORDS, WIDTH = 6, 32
TEXTS = (TextSpec(WORDS, WIDTH),)


@pytest.fixture(scope="module", params=["built-in", "diffusers", "diffusers in bf16"])
def encoders(request, tmp_path_factory: pytest.TempPathFactory):
    config, dtype = EncoderConfig(), torch.float32
    if request.param != "built-in":
        pytest.importorskip("diffusers")
        folder: Path = tmp_path_factory.mktemp("encoders")
        config = EncoderConfig(make_tiny_vae(folder / "vae"), make_tiny_t5(folder / "t5", WIDTH))
        dtype = torch.bfloat16 if "bf16" in request.param else torch.float32
    return video_autoencoder(config, CAUSAL, CPU, dtype), text_encoder(config, TEXTS[0], CPU, dtype)


def maker(encoders, record=None, **flags) -> SampleMaker:
    autoencoder, text = encoders
    spec = SampleSpec({VIDEO: (3, 16, 2, 3)}, TEXTS, image_latents=True)
    run = small_run(**{"scale_factor": 0.7, "text_dropout": 0.0, "image_dropout": 0.0, **flags})
    return SampleMaker(run, lambda size: spec, autoencoder, [text], CPU, seed=3, record=record)


def clip(position: int = 7, caption: str = "a man in a car", cached: EncodedClip | None = None):
    frames = torch.randint(0, 256, (9, 3, 16, 24), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return SimpleNamespace(
        position=position,
        key="a",
        caption="" if cached else caption,
        size=SIZE,
        frames_TCHW=None if cached else frames,
        cached=cached,
    )


def through_a_cache(encoders, encoded: EncodedClip) -> EncodedClip:
    empty = [encoders[1].encode([""])[0]]
    return from_tensors(to_tensors(encoded, empty, TEXTS), empty)


def test_moments_and_draw_are_one_encoding_cut_in_two(encoders) -> None:
    sample = maker(encoders)
    out = sample.packing_of(SIZE).unpack(sample.make(clip()))
    drawn_CTHW = encoders[0].encode(pixels_CFHW(clip().frames_TCHW)).sample(sample_generator(3, 7, "posterior"))
    assert torch.equal(out["latents"], 0.7 * drawn_CTHW.permute(1, 0, 2, 3))
    assert torch.equal(out["text"], encoders[1].encode(["a man in a car"]).states_BLE[0])
    assert out["image_latents"].any()


@pytest.mark.parametrize("flags", [{}, {"text_dropout": 1.0}, {"text_dropout": 1.0, "null_text": "empty-prompt"}])
def test_samples_of_cached_clips_are_the_same_bit_by_bit(encoders, flags) -> None:
    recorded = []
    writing = maker(encoders, lambda clip, encoded: recorded.append(encoded), **flags)
    plain = maker(encoders, **flags)
    expected = plain.make(clip())
    assert torch.equal(writing.make(clip()), expected)
    (encoded,) = recorded
    cached = through_a_cache(encoders, encoded)
    for position in (7, 8):  # another position draws anew from the same moments
        assert torch.equal(writing.make(clip(position, cached=cached)), plain.make(clip(position)))
    assert len(recorded) == 1
    assert torch.equal(
        cached.texts[0].states_BLE, encoders[1].encode(["a man in a car"]).states_BLE[0]
    )  # dropped or not


def test_dropped_captions_are_recorded_all_the_same(encoders) -> None:
    recorded = {}
    writing = maker(encoders, lambda clip, encoded: recorded.update({clip.position: encoded}), text_dropout=0.5)
    for position in range(8):
        writing.make(clip(position))
    dropped = [position for position in range(8) if bernoulli(0.5, 3, position, "caption_dropout")]
    assert 0 < len(dropped) < 8
    states = [encoded.texts[0].states_BLE for encoded in recorded.values()]
    assert all(torch.equal(one, states[0]) for one in states)


def test_the_null_embedding_is_encoded_once() -> None:
    seen = []

    class Counting:
        def encode(self, captions):
            seen.extend(captions)
            states = torch.ones(len(captions), WORDS, WIDTH)
            return EncodedText(states, states[..., 0].bool())

    encoders = video_autoencoder(EncoderConfig(), CAUSAL, CPU, torch.float32), Counting()
    dropping = maker(encoders, text_dropout=1.0, null_text="empty-prompt")
    for position in range(3):
        dropping.make(clip(position))
    assert seen == [""]


def test_text_is_cut_where_only_the_empty_caption_follows() -> None:
    text = text_encoder(EncoderConfig(), TEXTS[0], CPU, torch.float32)
    empty = [text.encode([""])[0]]
    for caption, rows in (("", 0), ("one two", 2), ("a b c d e f g", WORDS)):
        encoded = EncodedClip(Posterior(torch.zeros(1, 1, 1, 1)), (text.encode([caption])[0],), None)
        tensors = to_tensors(encoded, empty, TEXTS)
        assert len(tensors["text"]) == rows
        again = from_tensors(tensors, empty).texts[0]
        assert torch.equal(again.states_BLE, encoded.texts[0].states_BLE)


def test_numbers_are_narrowed_only_without_loss() -> None:
    mean_CTHW = torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    mask_L = torch.ones(2, dtype=torch.bool)
    text, empty = EncodedText(torch.ones(2, 3), mask_L), [EncodedText(torch.zeros(2, 3), ~mask_L)]
    encoded = EncodedClip(Posterior(mean_CTHW, mean_CTHW.bfloat16().float()), (text,), None)
    tensors = to_tensors(encoded, empty, [TextSpec(2, 3)])
    kinds = {name: tensor.dtype for name, tensor in tensors.items()}
    assert kinds == {"mean": torch.float32, "logvar": torch.bfloat16, "text": torch.bfloat16}
    again = from_tensors(tensors, empty).posterior
    assert torch.equal(again.mean_CTHW, mean_CTHW) and torch.equal(again.logvar_CTHW, mean_CTHW.bfloat16().float())

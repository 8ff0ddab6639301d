"""Each kind of text encoder beside transformers' own, and what a network may ask of it."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.encoders.tiny_folders import make_tiny_clip, make_tiny_t5, make_tiny_umt5
from vidtron import encoders
from vidtron.config.data import DataConfig, EncoderConfig
from vidtron.config.run import RunConfig
from vidtron.config.text import TextSpec
from vidtron.config.world import World
from vidtron.encoders.factory import text_encoder
from vidtron.encoders.hashed_tokens import HashedTokens
from vidtron.encoders.space_time import CAUSAL

pytest.importorskip("transformers")
WORLD = World(size=1, rank=0, local_rank=0, has_cuda=False)
CAPTIONS = ["a street", "a clip of the street with bikes", ""]


def opened(folder: Path, text: TextSpec, dtype: torch.dtype = torch.float32):
    return text_encoder(EncoderConfig(text_encoder_path=folder), text, "cpu", dtype)


def tokens_of(folder: Path, length: int, captions: list[str] = CAPTIONS):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer(captions, padding="max_length", truncation=True, max_length=length, return_tensors="pt")


def test_t5_for_a_network_with_a_mask_sees_the_caption_alone(tiny_t5: Path) -> None:
    from transformers import T5EncoderModel

    encoded = opened(tiny_t5, TextSpec(6, 32, masked=True)).encode(CAPTIONS)
    tokens = tokens_of(tiny_t5, 6)
    with torch.no_grad():
        expected_BLE = T5EncoderModel.from_pretrained(tiny_t5).eval()(**tokens).last_hidden_state
    torch.testing.assert_close(encoded.states_BLE, expected_BLE)
    assert encoded.mask_BL.dtype == torch.bool and encoded.mask_BL.sum(1).tolist() == [3, 6, 1]
    unmasked = opened(tiny_t5, TextSpec(6, 32))
    assert not torch.allclose(unmasked.encode(CAPTIONS).states_BLE[0], expected_BLE[0], atol=1e-3)
    assert unmasked.fingerprint() != opened(tiny_t5, TextSpec(6, 32, masked=True)).fingerprint()


def test_umt5_is_wans(tmp_path: Path) -> None:
    pytest.importorskip("ftfy")
    from diffusers import WanPipeline
    from transformers import AutoTokenizer, UMT5EncoderModel

    folder = make_tiny_umt5(tmp_path)
    captions = [*CAPTIONS, "  the   street &amp;amp;\n bikes", "“a” ｃｌｉｐ， of the street"]
    pipeline = SimpleNamespace(
        tokenizer=AutoTokenizer.from_pretrained(folder), text_encoder=UMT5EncoderModel.from_pretrained(folder).eval()
    )
    cpu = torch.device("cpu")
    with torch.no_grad():
        expected_BLE = WanPipeline._get_t5_prompt_embeds(
            pipeline, captions, max_sequence_length=9, device=cpu, dtype=torch.float32
        )
    encoded = opened(folder, TextSpec(9, 32)).encode(captions)
    torch.testing.assert_close(encoded.states_BLE, expected_BLE)
    assert not encoded.states_BLE[~encoded.mask_BL].any()
    assert encoded.mask_BL.sum(1).tolist()[:3] == [3, 8, 1]
    assert encoded.states_BLE[2, 0].any()  # the end token of an empty caption
    assert encoded.pooled_BE is None


@pytest.mark.parametrize("projected", [False, True])
def test_clip_gives_states_and_a_pooled_vector(tmp_path: Path, projected: bool) -> None:
    import transformers

    folder = make_tiny_clip(tmp_path, projected=projected)
    width = 24 if projected else 32
    encoded = opened(folder, TextSpec(10, 32, masked=True, pooled_width=width)).encode(CAPTIONS)
    tokens = tokens_of(folder, 10)
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    with torch.no_grad():
        expected = kind.from_pretrained(folder).eval()(input_ids=tokens.input_ids)
    torch.testing.assert_close(encoded.states_BLE, expected.last_hidden_state)
    torch.testing.assert_close(encoded.pooled_BE, expected.text_embeds if projected else expected.pooler_output)
    assert encoded.pooled_BE.shape == (3, width)
    assert torch.equal(encoded.mask_BL, tokens.attention_mask.bool())
    assert encoded.mask_BL.sum(1).tolist() == [4, 9, 2]


def test_half_precision_gives_fp32_and_no_captions_nothing(tmp_path: Path) -> None:
    clip = opened(make_tiny_clip(tmp_path), TextSpec(10, 32, pooled_width=32), torch.bfloat16)
    encoded = clip.encode(CAPTIONS)
    assert encoded.states_BLE.dtype == encoded.pooled_BE.dtype == torch.float32
    nothing = clip.encode([])
    assert nothing.states_BLE.shape == (0, 10, 32) and nothing.pooled_BE.shape == (0, 32)


def checked(texts: tuple[TextSpec, ...], world: World = WORLD, **paths: Path) -> list[str]:
    data = DataConfig(num_frames=17, height=64, width=96)
    return encoders.check(RunConfig("test", None, data=data, encoders=EncoderConfig(**paths)), world, CAUSAL, texts)


def test_what_a_network_asks_and_does_not_get_is_one_error(tmp_path: Path) -> None:
    clip, t5 = make_tiny_clip(tmp_path / "clip"), make_tiny_t5(tmp_path / "t5")
    fitting = (TextSpec(6, 32, masked=True), TextSpec(10, 32, pooled_width=32))
    assert checked(fitting, text_encoder_path=t5, text_encoder_2_path=clip) == []
    wrong = (TextSpec(6, 16, pooled_width=8), TextSpec(77, 24, pooled_width=16))
    errors = checked(wrong, text_encoder_path=t5, text_encoder_2_path=clip)
    assert errors == [
        f"--text-encoder-path {t5}: gives embeddings of width 32, the model takes 16; gives no pooled vector, the "
        "model takes one of width 8",
        f"--text-encoder-2-path {clip}: gives embeddings of width 32, the model takes 24; takes 10 tokens at most, "
        "the model takes 77; gives a pooled vector of width 32, the model takes 16",
    ]
    with pytest.raises(ValueError) as caught:
        text_encoder(EncoderConfig(text_encoder_2_path=clip), wrong[1], "cpu", torch.float32, number=1)
    assert str(caught.value) == errors[1]


def test_the_second_encoder_of_a_pipeline(tmp_path: Path) -> None:
    (tmp_path / "tokenizer").mkdir()
    make_tiny_clip(tmp_path / "text_encoder", tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{}")  # not of the second
    make_tiny_clip(tmp_path / "text_encoder_2", tmp_path / "tokenizer_2", projected=True)
    texts = (TextSpec(10, 32, pooled_width=32), TextSpec(10, 32, pooled_width=24))
    for path in (tmp_path, tmp_path / "text_encoder_2"):
        second = text_encoder(EncoderConfig(text_encoder_2_path=path), texts[1], "cpu", torch.float32, number=1)
        assert second.encode(["a street"]).pooled_BE.shape == (1, 24)
    assert checked(texts, text_encoder_path=tmp_path, text_encoder_2_path=tmp_path) == []


def test_umt5_needs_ftfy(tmp_path: Path) -> None:
    folder = make_tiny_umt5(tmp_path)
    bare = World(size=1, rank=0, local_rank=0, has_cuda=False, packages=frozenset({"transformers"}))
    (error,) = checked((TextSpec(6, 32),), bare, text_encoder_path=folder)
    assert error == "--text-encoder-path: needs the ftfy package, which is not installed"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "bert"}, "holds a bert; accepted: t5, umt5, clip_text_model"),
        ({}, "holds a model without model_type; accepted: t5, umt5, clip_text_model"),
        ({"model_type": "umt5"}, "does not tell 'd_model'"),
        ({"model_type": "t5", "d_model": None}, "config.json tells no sizes (int()"),
    ],
)
def test_a_wrong_config_is_named(tmp_path: Path, config: dict, message: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").write_text("{}")
    (error,) = checked((TextSpec(6, 32),), text_encoder_path=tmp_path)
    assert error.startswith(f"--text-encoder-path {tmp_path}: ") and message in error


def test_the_stand_in_has_pooled_vectors_of_any_width() -> None:
    usual, pooled = HashedTokens(8, 6), HashedTokens(8, 6, pooled_width=20)
    one, other, empty = (pooled.encode([text]) for text in ("a street", "street a", ""))
    assert one.pooled_BE.shape == (1, 20) and not empty.pooled_BE.any()
    assert one.pooled_BE.any() and torch.allclose(one.pooled_BE, other.pooled_BE)
    assert torch.equal(one.states_BLE, usual.encode(["a street"]).states_BLE)
    assert pooled.fingerprint() != usual.fingerprint()

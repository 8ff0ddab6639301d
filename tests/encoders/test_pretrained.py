import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.encoders.tiny_folders import check_encoders as check
from tests.encoders.tiny_folders import make_tiny_t5
from vidtron.config.data import DataConfig, EncoderConfig
from vidtron.config.geometry import LatentGeometry
from vidtron.config.run import RunConfig
from vidtron.config.text import TextSpec
from vidtron.config.world import World
from vidtron.encoders import video_autoencoder
from vidtron.encoders.factory import text_encoder
from vidtron.encoders.space_time import CAUSAL

WORLD = World(size=1, rank=0, local_rank=0, has_cuda=False)


def run_config(**encoders: object) -> RunConfig:
    return RunConfig(
        "test", None, data=DataConfig(num_frames=17, height=64, width=96), encoders=EncoderConfig(**encoders)
    )


@pytest.mark.parametrize("frames", [1, 5, 9, 13])
def test_autoencoder_geometry(tiny_vae: Path, frames: int) -> None:
    vae = video_autoencoder(EncoderConfig(vae_path=tiny_vae), CAUSAL, "cpu", torch.float32)
    video_CTHW = torch.rand(3, frames, 16, 16) * 2 - 1
    posterior = vae.encode(video_CTHW)
    assert posterior.mean_CTHW.shape == vae.geometry.latent_shape(frames, 16, 16) == (16, (frames - 1) // 4 + 1, 2, 2)
    assert posterior.logvar_CTHW is not None
    assert posterior.logvar_CTHW.min() >= -30 and posterior.logvar_CTHW.max() <= 20
    decoded_CTHW = vae.decode(posterior.mean_CTHW)
    assert decoded_CTHW.shape == video_CTHW.shape
    assert decoded_CTHW.dtype == posterior.mean_CTHW.dtype == torch.float32
    assert not decoded_CTHW.requires_grad


def test_autoencoder_equals_diffusers(tiny_vae: Path) -> None:
    from diffusers import AutoencoderKLCogVideoX

    video_CTHW = torch.rand(3, 17, 16, 16) * 2 - 1
    vae = video_autoencoder(EncoderConfig(vae_path=tiny_vae), CAUSAL, "cpu", torch.float32)
    reference = AutoencoderKLCogVideoX.from_pretrained(tiny_vae).eval()
    with torch.no_grad():
        moments = reference.encode(video_CTHW[None]).latent_dist
        decoded_CTHW = reference.decode(moments.mean).sample[0]
    posterior = vae.encode(video_CTHW)
    assert torch.allclose(posterior.mean_CTHW, moments.mean[0], atol=1e-6)
    assert torch.allclose(posterior.logvar_CTHW, moments.logvar[0], atol=1e-6)
    assert torch.allclose(vae.decode(posterior.mean_CTHW), decoded_CTHW, atol=1e-5)


@pytest.mark.parametrize(
    ("flags", "latent_frames", "size"),
    [({"frames_at_once": 4}, 5, (4, 4)), ({"frames_at_once": 4}, 4, (4, 4)), ({"tiling": True}, 1, (32, 48))],
)
def test_slices_and_tiles_give_nearly_the_same_video(tiny_vae: Path, flags, latent_frames, size) -> None:
    latents_CTHW = torch.randn(16, latent_frames, *size, generator=torch.Generator().manual_seed(0))
    plain = EncoderConfig(vae_path=tiny_vae)
    config = EncoderConfig(vae_path=tiny_vae, vae_tiling="tiling" in flags)
    slices = {name: value for name, value in flags.items() if name != "tiling"}
    plain_CTHW = video_autoencoder(plain, CAUSAL, "cpu", torch.float32).decode(latents_CTHW)
    decoded_CTHW = video_autoencoder(config, CAUSAL, "cpu", torch.float32, **slices).decode(latents_CTHW)
    assert decoded_CTHW.shape == plain_CTHW.shape == (3, 4 * latent_frames - 3, 8 * size[0], 8 * size[1])
    difference = (decoded_CTHW - plain_CTHW).abs()
    assert difference.max() > 0 and difference.mean() < plain_CTHW.std() / 2


def test_the_pipeline_folder_is_accepted(tiny_vae: Path) -> None:
    vae = video_autoencoder(EncoderConfig(vae_path=tiny_vae.parent), CAUSAL, "cpu", torch.bfloat16)
    assert vae.encode(torch.zeros(3, 1, 16, 16)).mean_CTHW.dtype == torch.float32
    assert (
        vae.fingerprint()
        == video_autoencoder(EncoderConfig(vae_path=tiny_vae), CAUSAL, "cpu", torch.float32).fingerprint()
    )


def test_fingerprint_follows_the_weights(tiny_vae: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(tiny_vae, tmp_path / "vae")
    weights = next(changed.glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    prints = [
        video_autoencoder(EncoderConfig(vae_path=path), CAUSAL, "cpu", torch.float32).fingerprint()
        for path in (tiny_vae, changed)
    ]
    assert prints[0] != prints[1]


def test_t5_pads_and_truncates_without_a_mask(tiny_t5: Path) -> None:
    from transformers import T5EncoderModel

    encoder = text_encoder(EncoderConfig(text_encoder_path=tiny_t5), TextSpec(6, 32), "cpu", torch.float32)
    long = "a clip of the street with bikes"
    embedding_BLE = encoder.encode(["a street", long, ""]).states_BLE
    assert embedding_BLE.shape == (3, 6, 32)
    assert embedding_BLE.dtype == torch.float32
    reference = T5EncoderModel.from_pretrained(tiny_t5).eval()
    # pad 0, </s> 1, words from 3 in the order of WORDS; a full row keeps its </s>
    tokens_BL = torch.tensor([[3, 7, 1, 0, 0, 0], [3, 4, 5, 6, 7, 1], [1, 0, 0, 0, 0, 0]])
    with torch.no_grad():
        expected_BLE = reference(input_ids=tokens_BL, attention_mask=torch.ones_like(tokens_BL)).last_hidden_state
    assert torch.allclose(embedding_BLE, expected_BLE, atol=1e-5)


def test_wrong_width_is_refused(tiny_t5: Path) -> None:
    with pytest.raises(ValueError, match=r"--text-encoder-path .* width 32, the model takes 64"):
        text_encoder(EncoderConfig(text_encoder_path=tiny_t5), TextSpec(16, 64), "cpu", torch.float32)
    assert len(check(run_config(text_encoder_path=tiny_t5), WORLD, width=64)) == 1


def test_check_accepts_good_folders(tiny_vae: Path, tiny_t5: Path) -> None:
    config = run_config(vae_path=tiny_vae, text_encoder_path=tiny_t5)
    assert check(config, WORLD) == []
    assert check(run_config(), WORLD, width=99) == []
    assert "latent channels" in check(config, WORLD, geometry=LatentGeometry(4, 8, 4))[0]
    assert "more latents than pixels" in check(run_config(), WORLD, geometry=LatentGeometry(999, 1, 1))[0]


def test_check_names_the_flag(tiny_vae: Path, tiny_t5: Path, tmp_path: Path) -> None:
    missing = check(run_config(vae_path=tmp_path / "no", text_encoder_path=tmp_path / "no"), WORLD)
    assert [m.split()[0] for m in missing] == ["--vae-path", "--text-encoder-path"]
    swapped = check(run_config(vae_path=tiny_t5, text_encoder_path=tiny_vae), WORLD)
    assert "accepted: AutoencoderKLCogVideoX" in swapped[0]
    assert "accepted: t5" in swapped[1]
    (tmp_path / "config.json").write_text("{")
    assert "cannot be read" in check(run_config(vae_path=tmp_path), WORLD)[0]
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5", "d_model": 8}))
    assert "no tokenizer" in check(run_config(text_encoder_path=tmp_path), WORLD)[0]


def test_check_finds_clips_that_do_not_fit() -> None:
    config = run_config()
    config.data.num_frames = 16
    errors = check(config, WORLD)
    assert len(errors) == 1
    assert errors[0].startswith("--num-frames 16: does not fit the autoencoder; accepted: 4k+1, the nearest 13 and 17")


def test_check_names_missing_packages(tiny_vae: Path, tiny_t5: Path) -> None:
    bare = World(size=1, rank=0, local_rank=0, has_cuda=False, packages=frozenset())
    errors = check(run_config(vae_path=tiny_vae, text_encoder_path=tiny_t5), bare)
    assert "diffusers package" in errors[0] and "transformers package" in errors[1]


def test_captions_the_tokenizer_does_not_know_are_told_once(tiny_t5: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = text_encoder(EncoderConfig(text_encoder_path=tiny_t5), TextSpec(16, 32), "cpu", torch.float32)
    encoder.encode(["a clip of the street with bikes", ""])
    assert caplog.text == ""
    encoder.encode(["a street", "q w e r t y u i o p"])
    encoder.encode(["q w e r t y u i o p"])
    assert caplog.text.count("unknown to its tokenizer") == 1


def test_a_folder_with_a_sentencepiece_model(tmp_path: Path) -> None:
    """How CogVideoX ships its tokenizer: beside the encoder, without tokenizer.json."""
    sentencepiece = pytest.importorskip("sentencepiece")
    from transformers import T5EncoderModel

    make_tiny_t5(tmp_path / "text_encoder", words=[f"w{i}" for i in range(100)])
    for path in (tmp_path / "text_encoder").glob("tokenizer*"):
        path.unlink()
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (tmp_path / "text").write_text("a man rides a bike in the street\ncars cross a square\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"),
        model_prefix=str(folder / "spiece"),
        vocab_size=60,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    names = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "pad_token": "<pad>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**names, "unk_token": "<unk>"}))
    encoder = text_encoder(EncoderConfig(text_encoder_path=tmp_path), TextSpec(6, 32), "cpu", torch.float32)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    ids = [*pieces.encode("a man")[:5], 1]
    assert len(ids) > 3 and 2 not in ids
    tokens_BL = torch.tensor([ids + [0] * (6 - len(ids))])
    with torch.no_grad():
        expected_BLE = T5EncoderModel.from_pretrained(tmp_path / "text_encoder")(input_ids=tokens_BL).last_hidden_state
    assert torch.allclose(encoder.encode(["a man"]).states_BLE, expected_BLE, atol=1e-5)

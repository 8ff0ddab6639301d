"""Options of the pretrained encoders: tiles, slices, compilation, weights that wait elsewhere."""

import os
from pathlib import Path

import pytest
import torch

from tests.encoders.tiny_folders import check_encoders as check
from tests.last_bits import VARIABLE
from vidtron.config.data import EncoderConfig
from vidtron.config.run import RunConfig
from vidtron.config.text import TextSpec
from vidtron.config.world import World
from vidtron.encoders import video_autoencoder
from vidtron.encoders.factory import encoded_terms, text_encoder
from vidtron.encoders.frozen import FrozenNetwork
from vidtron.encoders.space_time import CAUSAL

WORLD = World(size=1, rank=0, local_rank=0, has_cuda=False)
ALL = {"encoder_offload": True, "vae_tiling": True, "vae_slicing": True, "compile_encoders": True}


def noise_video(frames: int, height: int, width: int) -> torch.Tensor:
    return torch.rand(3, frames, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


def vae_of(folder: Path, **flags: object):
    return video_autoencoder(EncoderConfig(vae_path=folder, **flags), CAUSAL, "cpu", torch.float32)


def test_tiles_change_large_clips_alone_and_the_fingerprint(tiny_vae: Path) -> None:
    plain, tiled = vae_of(tiny_vae), vae_of(tiny_vae, vae_tiling=True)
    small, large = noise_video(1, 16, 16), noise_video(1, 256, 384)
    assert torch.equal(plain.encode(small).mean_CTHW, tiled.encode(small).mean_CTHW)
    whole_CTHW, tiles_CTHW = plain.encode(large).mean_CTHW, tiled.encode(large).mean_CTHW
    assert tiles_CTHW.shape == whole_CTHW.shape
    assert 0 < (tiles_CTHW - whole_CTHW).abs().mean() < whole_CTHW.std()
    assert plain.fingerprint() != tiled.fingerprint()


def test_slices_and_offloading_change_no_bit_on_a_cpu(tiny_vae: Path, tiny_t5: Path) -> None:
    flags = {"vae_slicing": True, "encoder_offload": True}
    video_CTHW = noise_video(5, 16, 24)
    plain, other = vae_of(tiny_vae).encode(video_CTHW), vae_of(tiny_vae, **flags).encode(video_CTHW)
    assert torch.equal(plain.mean_CTHW, other.mean_CTHW) and torch.equal(plain.logvar_CTHW, other.logvar_CTHW)
    encoders = [
        text_encoder(EncoderConfig(text_encoder_path=tiny_t5, **options), TextSpec(6, 32), "cpu", torch.float32)
        for options in ({}, flags)
    ]
    assert torch.equal(*(encoder.encode(["a street"]).states_BLE for encoder in encoders))


class OffloadedToClones(FrozenNetwork):
    """Copies within the CPU's memory stand for those on a GPU."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.copies = 0
        super().__init__(network, torch.device("meta"), offload=True)

    def _on_device(self, waiting: torch.Tensor) -> torch.Tensor:
        self.copies += 1
        return waiting.clone()


def test_offloaded_weights_are_on_the_device_only_while_in_use() -> None:
    layer = torch.nn.Linear(2, 2)
    home, expected = layer.weight.data_ptr(), layer.weight.detach().clone()
    network = OffloadedToClones(layer)
    assert not layer.weight.requires_grad
    for uses in (1, 2):
        assert layer.weight.data_ptr() == home
        with network.in_use() as first, network.in_use():
            assert first is layer
            assert layer.weight.data_ptr() != home and torch.equal(layer.weight, expected)
        assert network.copies == 2 * uses  # weight and bias, once each
    with pytest.raises(ZeroDivisionError), network.in_use():
        raise ZeroDivisionError
    assert layer.weight.data_ptr() == home


def test_held_weights_are_brought_by_their_first_use_and_stay() -> None:
    layer = torch.nn.Linear(2, 2)
    home = layer.weight.data_ptr()
    network = OffloadedToClones(layer)
    with network.held():
        assert layer.weight.data_ptr() == home and network.copies == 0
        for _ in range(3):
            with network.in_use():
                assert network.copies == 2
        assert layer.weight.data_ptr() != home
    assert layer.weight.data_ptr() == home


@pytest.mark.slow
def test_compiled_encoders_give_the_same_up_to_rounding(tiny_vae: Path, tiny_t5: Path) -> None:
    video_CTHW = noise_video(5, 16, 16)
    plain, compiled = vae_of(tiny_vae), vae_of(tiny_vae, compile_encoders=True)
    expected = plain.encode(video_CTHW)
    posterior = compiled.encode(video_CTHW)
    torch.testing.assert_close(posterior.mean_CTHW, expected.mean_CTHW, rtol=1e-4, atol=1e-5)
    assert plain.fingerprint() == compiled.fingerprint()
    t5 = [
        text_encoder(
            EncoderConfig(text_encoder_path=tiny_t5, compile_encoders=compiles), TextSpec(6, 32), "cpu", torch.float32
        )
        .encode(["a street"])
        .states_BLE
        for compiles in (False, True)
    ]
    torch.testing.assert_close(t5[1], t5[0], rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(bool(os.environ.get(VARIABLE)), reason="torch compiles nothing while last bits are moved")
def test_what_cannot_be_compiled_is_told_with_the_flag(tiny_vae: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import cpp_builder, exc

    def no_compiler(*arguments: object, **more: object) -> str:
        raise exc.InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", no_compiler)
    torch.compiler.reset()
    with pytest.raises(RuntimeError, match=r"--compile-encoders: .* AutoencoderKLCogVideoX .* accepted: without"):
        vae_of(tiny_vae, compile_encoders=True).encode(noise_video(9, 24, 24))


def test_built_in_encoders_accept_every_option() -> None:
    config = EncoderConfig(**ALL)
    assert check(RunConfig("test", None, encoders=config), WORLD) == []
    plain = video_autoencoder(EncoderConfig(), CAUSAL, "cpu", torch.float32)
    assert video_autoencoder(config, CAUSAL, "cpu", torch.float32).fingerprint() == plain.fingerprint()
    assert text_encoder(config, TextSpec(4, 8), "cpu", torch.float32).encode(["a"]).states_BLE.shape == (1, 4, 8)


def test_check_names_options_that_cannot_work(tiny_vae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    config = RunConfig("test", None, encoders=EncoderConfig(latent_cache=tmp_path / "file"))
    (cache,) = check(config, WORLD)
    assert cache.startswith("--latent-cache") and "is a file; accepted: a folder" in cache
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    compiling = RunConfig("test", None, encoders=EncoderConfig(vae_path=tiny_vae, compile_encoders=True))
    assert check(compiling, WORLD)[0].startswith("--compile-encoders: torch.compile needs a C++ compiler")


def test_terms_of_encoded_clips_follow_what_changes_numbers(tiny_vae: Path) -> None:
    def terms(dtype: torch.dtype = torch.float32, **flags: object) -> dict[str, str]:
        config = EncoderConfig(**flags)
        text = text_encoder(config, TextSpec(4, 8), "cpu", dtype)
        return encoded_terms(config, dtype, video_autoencoder(config, CAUSAL, "cpu", dtype), [text])

    plain = terms(vae_path=tiny_vae)
    assert terms(vae_path=tiny_vae, encoder_offload=True, vae_slicing=True, compile_encoders=True) == plain
    changed = {
        "--vae-path (and --vae-tiling)": terms(vae_path=tiny_vae, vae_tiling=True),
        "--bf16 (dtype of the encoders)": terms(torch.bfloat16, vae_path=tiny_vae),
        "--scale-factor": terms(vae_path=tiny_vae, scale_factor=0.5),
    }
    for name, other in changed.items():
        assert [key for key in plain if plain[key] != other[key]] == [name]
    assert terms() == terms(torch.bfloat16)  # the built-in ones are always fp32

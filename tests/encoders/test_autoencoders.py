"""Each class of autoencoder beside diffusers' own encode and decode, and how its latents are normalised."""

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.encoders.tiny_folders import (
    check_encoders,
    make_tiny_image_vae,
    make_tiny_wan_2_2_vae,
    make_tiny_wan_vae,
)
from vidtron.config.data import DataConfig, EncoderConfig
from vidtron.config.geometry import LatentGeometry
from vidtron.config.objective import ObjectiveConfig
from vidtron.config.run import RunConfig
from vidtron.config.world import World
from vidtron.encoders import normalisation_of, video_autoencoder
from vidtron.encoders.normalisation import ByChannel, ByFactor
from vidtron.encoders.space_time import CAUSAL

pytest.importorskip("diffusers")
WORLD = World(size=1, rank=0, local_rank=0, has_cuda=False)
Maker = Callable[..., Path]
KINDS: dict[str, tuple[Maker, LatentGeometry]] = {
    "AutoencoderKL": (make_tiny_image_vae, LatentGeometry(4, 8, 1)),
    "AutoencoderKLWan": (make_tiny_wan_vae, LatentGeometry(16, 8, 4)),
    "AutoencoderKLWan, 48 channels": (make_tiny_wan_2_2_vae, LatentGeometry(48, 16, 4)),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LatentGeometry]:
    make, geometry = KINDS[request.param]
    return make(tmp_path_factory.mktemp("vae")), geometry


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_wan_vae(tmp_path_factory.mktemp("wan"))


def noise_video(frames: int, height: int = 32, width: int = 48, seed: int = 0) -> torch.Tensor:
    return torch.rand(3, frames, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def opened(folder: Path, **flags: object):
    return video_autoencoder(EncoderConfig(vae_path=folder, **flags), CAUSAL, "cpu", torch.float32)


def diffusers_model(folder: Path):
    import diffusers

    name = json.loads((folder / "config.json").read_text())["_class_name"]
    return getattr(diffusers, name).from_pretrained(folder).eval()


@torch.no_grad()
def diffusers_moments(model, video_CTHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if type(model).__name__ == "AutoencoderKL":
        moments = [model.encode(video_CTHW[None, :, frame]).latent_dist for frame in range(video_CTHW.shape[1])]
        return torch.stack([one.mean[0] for one in moments], 1), torch.stack([one.logvar[0] for one in moments], 1)
    moments = model.encode(video_CTHW[None]).latent_dist
    return moments.mean[0], moments.logvar[0]


@torch.no_grad()
def diffusers_video(model, latents_CTHW: torch.Tensor) -> torch.Tensor:
    if type(model).__name__ == "AutoencoderKL":
        frames = [model.decode(latents_CTHW[None, :, frame]).sample[0] for frame in range(latents_CTHW.shape[1])]
        return torch.stack(frames, 1)
    return model.decode(latents_CTHW[None]).sample[0]


@pytest.mark.parametrize("frames", [1, 9])
def test_it_encodes_and_decodes_as_diffusers(kind: tuple[Path, LatentGeometry], frames: int) -> None:
    folder, geometry = kind
    vae, model, video_CTHW = opened(folder), diffusers_model(folder), noise_video(frames)
    assert vae.geometry == geometry and vae.has_variance
    posterior = vae.encode(video_CTHW)
    assert posterior.mean_CTHW.shape == geometry.latent_shape(*video_CTHW.shape[1:])
    mean_CTHW, logvar_CTHW = diffusers_moments(model, video_CTHW)
    torch.testing.assert_close(posterior.mean_CTHW, mean_CTHW, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(posterior.logvar_CTHW, logvar_CTHW, rtol=1e-4, atol=1e-5)
    decoded_CTHW = vae.decode(mean_CTHW)
    assert decoded_CTHW.shape == video_CTHW.shape and decoded_CTHW.dtype == torch.float32
    torch.testing.assert_close(decoded_CTHW, diffusers_video(model, mean_CTHW), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="accepted"):
        vae.encode(noise_video(frames, height=31))


def test_half_precision_gives_fp32(kind: tuple[Path, LatentGeometry]) -> None:
    folder, _ = kind
    vae = video_autoencoder(EncoderConfig(vae_path=folder), CAUSAL, "cpu", torch.bfloat16)
    posterior = vae.encode(noise_video(5))
    assert posterior.mean_CTHW.dtype == vae.decode(posterior.mean_CTHW).dtype == torch.float32
    reference = opened(folder).encode(noise_video(5)).mean_CTHW
    assert 0 < (posterior.mean_CTHW - reference).norm() < 0.1 * reference.norm()


def test_tiles_and_slices_keep_the_shape(kind: tuple[Path, LatentGeometry]) -> None:
    folder, geometry = kind
    plain, tiled = opened(folder), opened(folder, vae_tiling=True, vae_slicing=True)
    video_CTHW = noise_video(2 if geometry.frames_period == 1 else 1, 64 * geometry.spatial_ratio, 32)
    latents_CTHW = plain.encode(video_CTHW).mean_CTHW
    assert tiled.encode(video_CTHW).mean_CTHW.shape == latents_CTHW.shape
    assert tiled.decode(latents_CTHW).shape == video_CTHW.shape
    assert tiled.fingerprint() == plain.fingerprint() + "-tiled"


def test_the_mean_of_the_posterior(wan: Path) -> None:
    drawn, mean = opened(wan), opened(wan, posterior="mean")
    assert drawn.has_variance and not mean.has_variance
    posterior, generator = mean.encode(noise_video(5)), torch.Generator().manual_seed(0)
    assert torch.equal(posterior.sample(generator), drawn.encode(noise_video(5)).mean_CTHW)
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(0).get_state())
    assert not torch.equal(drawn.encode(noise_video(5)).sample(generator), posterior.mean_CTHW)


def test_wans_latents_are_normalised_as_in_its_pipeline(wan: Path) -> None:
    vae, config = opened(wan), diffusers_model(wan).config
    latents_TCHW = torch.randn(3, 16, 4, 6, generator=torch.Generator().manual_seed(0))
    # WanPipeline.__call__: latents / latents_std + latents_mean with latents_std = 1 / config's.
    mean_C, inverse_C = torch.tensor(config.latents_mean), 1.0 / torch.tensor(config.latents_std)
    own_TCHW = latents_TCHW / inverse_C.view(16, 1, 1) + mean_C.view(16, 1, 1)
    normalisation = normalisation_of(EncoderConfig(vae_path=wan), vae)
    torch.testing.assert_close(normalisation.undo(latents_TCHW), own_TCHW)
    torch.testing.assert_close(normalisation.apply(own_TCHW), latents_TCHW)
    assert abs(config.latents_mean[2] + 0.9113) < 1e-9  # of the third channel, not of a frame
    assert (normalisation.undo(torch.zeros(1, 16, 1, 1))[0, 2] + 0.9113).abs() < 1e-6


def test_a_shift_comes_before_the_factor(tmp_path: Path) -> None:
    folder = make_tiny_image_vae(tmp_path, scaling_factor=1.5, shift_factor=0.25)
    own = opened(folder).normalisation
    assert own == ByFactor(1.5, 0.25)
    latents = torch.tensor([1.25]).view(1, 1, 1, 1)
    assert own.apply(latents).item() == 1.5 and own.undo(own.apply(latents)).item() == 1.25
    chosen = normalisation_of(EncoderConfig(vae_path=folder, scale_factor=2.0), opened(folder))
    assert chosen == ByFactor(2.0, 0.25)
    assert str(ByFactor(0.7)) == "0.7" and str(chosen) != str(ByFactor(2.0))


def test_an_image_autoencoder_may_be_normalised_by_channels(tmp_path: Path) -> None:
    statistics = {"latents_mean": [-1.0, 0.0, 1.0, 2.0], "latents_std": [2.0, 4.0, 6.0, 8.0]}
    own = opened(make_tiny_image_vae(tmp_path, scaling_factor=0.5, **statistics)).normalisation
    assert own == ByChannel((-1.0, 0.0, 1.0, 2.0), (4.0, 8.0, 12.0, 16.0))


def test_factors_that_folders_say(tiny_vae: Path, tmp_path: Path) -> None:
    assert opened(tiny_vae).normalisation == ByFactor(1.15258426)
    folder = make_tiny_image_vae(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "scaling_factor"}))
    assert opened(folder).normalisation == ByFactor(0.18215)  # as folders that are older than the field mean it


def run_of(folder: Path, image_latent_scale: str = "scaled", **flags: object) -> RunConfig:
    encoders = EncoderConfig(vae_path=folder, **flags)
    data, objective = DataConfig(num_frames=17, height=64, width=96), ObjectiveConfig()
    objective.image_latent_scale = image_latent_scale
    return RunConfig("test", None, data=data, encoders=encoders, objective=objective)


def test_flags_that_do_not_go_with_channels_are_refused(wan: Path) -> None:
    assert check_encoders(run_of(wan, posterior="mean"), WORLD) == []
    (factor,) = check_encoders(run_of(wan, scale_factor=0.7), WORLD)
    assert factor.startswith("--scale-factor 0.7: ") and factor.endswith("accepted: none")
    (inverted,) = check_encoders(run_of(wan, "inverted"), WORLD)
    assert inverted.startswith("--image-latent-scale inverted: ") and inverted.endswith("accepted: scaled, unscaled")


def test_a_geometry_that_the_model_does_not_take_is_refused(kind: tuple[Path, LatentGeometry]) -> None:
    folder, geometry = kind
    assert check_encoders(run_of(folder), WORLD, geometry=geometry) == []
    other = LatentGeometry(geometry.channels, 32, geometry.frames_period)
    (error,) = check_encoders(run_of(folder), WORLD, geometry=other)
    assert error.startswith(f"--vae-path {folder}: latents of {geometry}; the model takes {other}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latents_mean": [0.0] * 15}, "latents_mean does not hold one number for each of 16 channels"),
        ({"latents_std": None}, "latents_std does not hold one number for each of 16 channels"),
        ({"latents_std": [0.0] * 16}, "latents_std holds 0; accepted: numbers above 0"),
        ({"temperal_downsample": [True, True, True]}, "8 frames to a latent frame; accepted: 4"),
        ({"_class_name": "AutoencoderKLOther"}, "holds a AutoencoderKLOther; accepted: AutoencoderKLCogVideoX, "),
        ({"_class_name": ["x"]}, "accepted: AutoencoderKLCogVideoX, "),
        ({"z_dim": None}, "config.json tells no sizes (int()"),
        ({"dim_mult": 4}, "config.json tells no sizes (object of type 'int'"),
    ],
)
def test_a_wrong_config_is_named(wan: Path, tmp_path: Path, changes: dict, message: str) -> None:
    folder = shutil.copytree(wan, tmp_path / "vae")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    (error,) = check_encoders(run_of(folder), WORLD)
    assert error.startswith(f"--vae-path {folder}: ") and message in error


def test_wan_serves_several_threads(wan: Path) -> None:
    """Validation samples while another thread encodes ahead; the network keeps frames of one call only."""
    vae, video_CTHW = opened(wan), noise_video(9, 16, 16)
    latents_CTHW = vae.encode(video_CTHW).mean_CTHW
    decoded_CTHW = vae.decode(latents_CTHW)
    same: dict[str, list[bool]] = {"encoded": [], "decoded": []}
    begin = threading.Barrier(2)

    def encode() -> None:
        begin.wait()
        for _ in range(6):
            same["encoded"].append(torch.equal(vae.encode(video_CTHW).mean_CTHW, latents_CTHW))

    def decode() -> None:
        begin.wait()
        for _ in range(6):
            same["decoded"].append(torch.equal(vae.decode(latents_CTHW), decoded_CTHW))

    threads = [threading.Thread(target=encode), threading.Thread(target=decode)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same == {"encoded": [True] * 6, "decoded": [True] * 6}

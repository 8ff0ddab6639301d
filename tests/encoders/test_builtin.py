import pytest
import torch

from vidtron.config.geometry import LatentGeometry
from vidtron.encoders import Posterior, TextEncoder, VideoAutoencoder
from vidtron.encoders.hashed_tokens import HashedTokens
from vidtron.encoders.space_time import SpaceTimeTransform


@pytest.fixture(scope="module")
def transform() -> SpaceTimeTransform:
    return SpaceTimeTransform()


def smooth_video(frames: int, height: int, width: int) -> torch.Tensor:
    """A slow, smooth pattern: what low frequencies can hold."""
    t, y, x = torch.meshgrid(torch.arange(frames), torch.arange(height), torch.arange(width), indexing="ij")
    grey = 0.6 * torch.sin(0.05 * x + 0.04 * y + 0.03 * t)
    return torch.stack([grey, grey * 0.9, grey * 0.8])


@pytest.mark.parametrize("frames", [1, 5, 17])
def test_geometry_is_cogvideox(transform: SpaceTimeTransform, frames: int) -> None:
    video_CTHW = smooth_video(frames, 16, 24)
    latents_CTHW = transform.encode(video_CTHW).mean_CTHW
    assert latents_CTHW.shape == transform.geometry.latent_shape(frames, 16, 24) == (16, (frames - 1) // 4 + 1, 2, 3)
    assert transform.decode(latents_CTHW).shape == video_CTHW.shape


def test_it_satisfies_the_protocols(transform: SpaceTimeTransform) -> None:
    assert isinstance(transform, VideoAutoencoder)
    assert isinstance(HashedTokens(8, 4), TextEncoder)


GEOMETRIES = {
    "CogVideoX": LatentGeometry(16, 8, 4),
    "3n + 2 frames": LatentGeometry(20, 24, 3, first_frames=2),
    "17n + 5 frames": LatentGeometry(24, 16, 17, first_frames=5, latents_period=5, first_latents=2),
    "frame by frame": LatentGeometry(4, 8, 1),
}


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_any_geometry_is_an_orthonormal_transform(geometry: LatentGeometry) -> None:
    transform = SpaceTimeTransform(geometry=geometry)
    frames, ratio = geometry.first_frames + 2 * geometry.frames_period, geometry.spatial_ratio
    latents_CTHW = torch.randn(geometry.latent_shape(frames, 2 * ratio, ratio))
    video_CTHW = transform.decode(latents_CTHW)
    assert video_CTHW.shape == (3, frames, 2 * ratio, ratio)
    torch.testing.assert_close(transform.encode(video_CTHW).mean_CTHW, latents_CTHW, rtol=1e-4, atol=1e-4)
    smooth = smooth_video(frames, 2 * ratio, ratio)
    error = (transform.decode(transform.encode(smooth).mean_CTHW) - smooth).square().mean()
    assert error < 0.1 * smooth.var()
    with pytest.raises(ValueError, match="accepted"):
        transform.encode(torch.zeros(3, frames, ratio + 1, ratio))


def test_more_latents_than_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="more latents than pixels"):
        SpaceTimeTransform(geometry=LatentGeometry(100, 4, 1))


def test_decoding_is_the_least_squares_inverse(transform: SpaceTimeTransform) -> None:
    video_CTHW = torch.randn(3, 9, 16, 16, generator=torch.Generator().manual_seed(0))
    latents_CTHW = transform.encode(video_CTHW).mean_CTHW
    decoded_CTHW = transform.decode(latents_CTHW)
    assert torch.allclose(transform.encode(decoded_CTHW).mean_CTHW, latents_CTHW, atol=1e-4)
    residual = video_CTHW - decoded_CTHW
    assert abs((residual * decoded_CTHW).sum()) < 1e-3 * residual.norm() * decoded_CTHW.norm()


def test_smooth_video_comes_back(transform: SpaceTimeTransform) -> None:
    video_CTHW = smooth_video(17, 64, 96)
    error = (transform.decode(transform.encode(video_CTHW).mean_CTHW) - video_CTHW).square().mean()
    assert 10 * torch.log10(4 / error) > 38


def test_still_video_has_equal_latents_in_shared_channels(transform: SpaceTimeTransform) -> None:
    latents_CTHW = transform.encode(smooth_video(1, 16, 16).expand(3, 9, 16, 16)).mean_CTHW
    assert torch.allclose(latents_CTHW[:12, :1].expand(12, 3, 2, 2), latents_CTHW[:12], atol=1e-5)
    assert latents_CTHW[12:, 1:].abs().max() < 1e-4


@pytest.mark.parametrize("shape", [(3, 4, 16, 16), (3, 5, 12, 16), (3, 5, 16, 12), (1, 5, 16, 16)])
def test_clips_that_do_not_fit_are_refused(transform: SpaceTimeTransform, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"accepted|colours"):
        transform.encode(torch.zeros(shape))


def test_posterior_draws_from_its_generator() -> None:
    mean, logvar = torch.zeros(2, 1, 2, 2), torch.full((2, 1, 2, 2), 2.0)
    draws = [Posterior(mean, logvar).sample(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(draws[0], noise * torch.e)
    assert torch.equal(Posterior(mean + 1).sample(torch.Generator()), mean + 1)


def test_hashed_tokens_depend_on_words_and_their_order_only() -> None:
    encoder = HashedTokens(width=32, length=6)
    encoded = HashedTokens(32, 6).encode(["a man on a bike", "A man, on a bike!", "a bike on a man", ""])
    a, b, c, d = encoded.states_BLE
    assert encoded.mask_BL.sum(1).tolist() == [5, 5, 5, 0]
    torch.testing.assert_close(encoded.pooled_BE[0], a[:5].mean(0))
    assert not encoded.pooled_BE[3].any()
    assert a.shape == (6, 32)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(a, encoder.encode(["a man on a bike"]).states_BLE[0])
    assert not torch.equal(a, d)


def test_hashed_tokens_are_the_same_everywhere_and_of_unit_variance() -> None:
    embedding = (
        HashedTokens(width=64, length=16).encode(["one two three four five six seven eight nine ten"]).states_BLE
    )
    assert abs(embedding.std().item() - 1) < 0.15
    assert torch.allclose(embedding[0, 0, :2], torch.tensor([0.59988, -1.82831]), atol=1e-5)


def test_long_captions_are_cut() -> None:
    encoder = HashedTokens(width=8, length=3)
    assert torch.equal(*(encoder.encode([text]).states_BLE for text in ("a b c d", "a b c")))

"""What an encoder is to the rest of the package.

Shapes: B batch, C channels, T frames (pixel or latent), H height, W width, L text tokens, E text width.
Pixels are float32 in [-1, 1]. Latents are unscaled: callers multiply them by `encoders.scale_factor`.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@dataclass(frozen=True)
class Posterior:
    """Distribution of the latents of one clip: a diagonal Gaussian, or a point where `logvar_CTHW` is None."""

    mean_CTHW: Tensor
    logvar_CTHW: Tensor | None = None

    def to(self, device: torch.device) -> "Posterior":
        """The same on a device."""
        logvar = self.logvar_CTHW
        return Posterior(self.mean_CTHW.to(device), None if logvar is None else logvar.to(device))

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One draw [C, T, H, W], fp32 on the mean's device.

        The noise is drawn in fp32 on the generator's device (the default generator's: CPU), so that a CPU generator
        gives the same draw on every machine. A point returns its mean and leaves the generator alone.
        """
        mean_CTHW = self.mean_CTHW.float()
        if self.logvar_CTHW is None:
            return mean_CTHW
        device = generator.device if generator is not None else "cpu"
        noise_CTHW = torch.randn(mean_CTHW.shape, generator=generator, dtype=torch.float32, device=device)
        return mean_CTHW + torch.exp(0.5 * self.logvar_CTHW.float()) * noise_CTHW.to(mean_CTHW.device)


@runtime_checkable
class VideoAutoencoder(Protocol):
    """A frozen video autoencoder."""

    latent_channels: int
    temporal_ratio: int
    spatial_ratio: int

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(C, T, H, W) of the latents of a clip; ValueError for a clip it cannot take."""
        ...

    def encode(self, video_CTHW: Tensor) -> Posterior:
        """Posterior of one clip [3, T, H, W], float32 in [-1, 1]."""
        ...

    def decode(self, latents_CTHW: Tensor) -> Tensor:
        """Video [3, T, H, W] of unscaled latents, about [-1, 1] and not clamped, float32."""
        ...

    def held(self) -> AbstractContextManager[None]:
        """Keeps offloaded weights on the device while it is open, once a call has brought them there."""
        ...

    def fingerprint(self) -> str:
        """Names the function this encoder computes; latents of equal fingerprints are interchangeable."""
        ...


@runtime_checkable
class TextEncoder(Protocol):
    """A frozen text encoder."""

    width: int

    def encode(self, captions: list[str]) -> Tensor:
        """Embeddings [B, L, E], fp32."""
        ...

    def held(self) -> AbstractContextManager[None]:
        """Keeps offloaded weights on the device while it is open, once a call has brought them there."""
        ...

    def fingerprint(self) -> str:
        """Names the function this encoder computes; embeddings of equal fingerprints are interchangeable."""
        ...


def causal_latent_shape(
    channels: int, temporal_ratio: int, spatial_ratio: int, frames: int, height: int, width: int
) -> tuple[int, int, int, int]:
    """(C, T, H, W) under the geometry of causal video autoencoders: the first frame alone, then groups of
    `temporal_ratio`.

    Raises ValueError for a clip that does not fit.
    """
    if frames < 1 or (frames - 1) % temporal_ratio:
        raise ValueError(f"{frames} frames do not fit the autoencoder; accepted: {temporal_ratio}k+1")
    if height < 1 or width < 1 or height % spatial_ratio or width % spatial_ratio:
        raise ValueError(
            f"{height} x {width} pixels do not fit the autoencoder; accepted: multiples of {spatial_ratio}"
        )
    return channels, (frames - 1) // temporal_ratio + 1, height // spatial_ratio, width // spatial_ratio

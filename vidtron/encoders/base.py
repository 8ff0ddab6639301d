"""What an encoder is to the rest of the package.

Shapes: B batch, C channels, T frames (pixel or latent), H height, W width, L text tokens, E text width.
Pixels are float32 in [-1, 1]. Autoencoders give and take latents of their own size; `normalisation_of` a run makes of
them what its model is trained on.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from vidtron.config.geometry import LatentGeometry
from vidtron.encoders.normalisation import Normalisation


@dataclass(frozen=True)
class Posterior:
    """Distribution of the latents of one clip: a diagonal Gaussian, or a point where `logvar_CTHW` is None."""

    mean_CTHW: Tensor
    logvar_CTHW: Tensor | None = None

    def to(self, device: torch.device) -> "Posterior":
        """The posterior with its tensors on a device."""
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
    """A frozen video autoencoder: videos to latents and back."""

    geometry: LatentGeometry
    normalisation: Normalisation
    """That it was trained with, or that suits it."""
    has_variance: bool
    """Whether posteriors are more than points."""

    def encode(self, video_CTHW: Tensor) -> Posterior:
        """Posterior of one clip [3, T, H, W], float32 in [-1, 1]; ValueError for a size that does not fit."""
        ...

    def decode(self, latents_CTHW: Tensor) -> Tensor:
        """Video [3, T, H, W] of latents that are not normalised, about [-1, 1] and not clamped, float32."""
        ...

    def held(self) -> AbstractContextManager[None]:
        """Keeps offloaded weights on the device while it is open, once a call has brought them there."""
        ...

    def fingerprint(self) -> str:
        """Names the function this encoder computes; latents of equal fingerprints are interchangeable."""
        ...


@dataclass(frozen=True)
class EncodedText:
    """Output of a text encoder for captions, or for some of them (`text[i]` of one, without the letter B)."""

    states_BLE: Tensor
    """One row for each token, padding included; fp32."""
    mask_BL: Tensor
    """True where a token is the caption's, bool."""
    pooled_BE: Tensor | None = None
    """One vector for the whole caption, fp32; None: the encoder has none."""

    def __getitem__(self, number: int | slice) -> "EncodedText":
        pooled = self.pooled_BE
        return EncodedText(self.states_BLE[number], self.mask_BL[number], None if pooled is None else pooled[number])

    def to(self, device: torch.device) -> "EncodedText":
        """The encoded text with its tensors on a device."""
        pooled = self.pooled_BE
        return EncodedText(
            self.states_BLE.to(device), self.mask_BL.to(device), None if pooled is None else pooled.to(device)
        )


@runtime_checkable
class TextEncoder(Protocol):
    """A frozen text encoder: captions to states and masks."""

    width: int
    length: int

    def encode(self, captions: list[str]) -> EncodedText:
        """States, mask and, of encoders that have it, a pooled vector of each caption."""
        ...

    def held(self) -> AbstractContextManager[None]:
        """Keeps offloaded weights on the device while it is open, once a call has brought them there."""
        ...

    def fingerprint(self) -> str:
        """Names the function this encoder computes; embeddings of equal fingerprints are interchangeable."""
        ...

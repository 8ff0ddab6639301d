"""Wan's autoencoders.

Shapes: C channels, T frames, H height, W width.
"""

import threading
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from vidtron.config.geometry import LatentGeometry, causal_geometry
from vidtron.encoders.diffusers_vae import DiffusersAutoencoder
from vidtron.encoders.normalisation import ByChannel, channel_statistics

_FRAMES_OF_A_LATENT = 4
"""diffusers encodes so many frames at a time after the first, whatever config.json says."""


class WanAutoencoder(DiffusersAutoencoder):
    """AutoencoderKLWan of Wan 2.1 (16 channels of 8 x 8 pixels) and 2.2 (48 channels of 16 x 16).

    It encodes and decodes one latent frame at a time. What its causal convolutions remember meanwhile stands in the
    network itself, so that one thread must wait for another. Decoded video is clamped to [-1, 1].
    """

    CLASS_NAME: ClassVar[str] = "AutoencoderKLWan"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._alone = threading.Lock()

    @classmethod
    def geometry_of(cls, config: Mapping[str, Any]) -> LatentGeometry:
        """Latent geometry by config.json: causal, 4 frames x 8 x 8 pixels, of Wan 2.2's 5B model x 16 x 16.

        Raises:
            ValueError: another ratio in time, which diffusers does not run.
        """
        frames = 2 ** sum(config.get("temperal_downsample", (False, True, True)))
        if frames != _FRAMES_OF_A_LATENT:
            raise ValueError(f"{frames} frames to a latent frame; accepted: {_FRAMES_OF_A_LATENT}")
        pixels = 2 ** (len(config.get("dim_mult", (1, 2, 4, 4))) - 1) * (config.get("patch_size") or 1)
        return causal_geometry(int(config.get("z_dim", 16)), frames, pixels)

    @classmethod
    def normalisation_of(cls, config: Mapping[str, Any]) -> ByChannel:
        """Normalisation by config.json's latents_mean and latents_std."""
        return channel_statistics(config, cls.geometry_of(config).channels)

    def _moments(self, model: Any, video_CTHW: Tensor) -> tuple[Tensor, Tensor]:
        with self._alone:
            moments = model.encode(video_CTHW[None]).latent_dist
        return moments.mean[0], moments.logvar[0]

    def _video(self, model: Any, latents_CTHW: Tensor) -> Tensor:
        with self._alone:
            return model.decode(latents_CTHW[None]).sample[0]

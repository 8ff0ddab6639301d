"""Autoencoders of images, as Stable Diffusion's, for videos frame by frame.

Shapes: C channels, T frames, H height, W width.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from vidtron.config.geometry import LatentGeometry
from vidtron.encoders.diffusers_vae import LATENT_FRAMES_AT_ONCE, DiffusersAutoencoder
from vidtron.encoders.normalisation import ByFactor, Normalisation, channel_statistics


class ImageAutoencoder(DiffusersAutoencoder):
    """AutoencoderKL, a few frames at a time. No frame knows of another."""

    CLASS_NAME: ClassVar[str] = "AutoencoderKL"

    @classmethod
    def geometry_of(cls, config: Mapping[str, Any]) -> LatentGeometry:
        """Latent geometry by config.json: every frame is a latent frame."""
        ratio = 2 ** (len(config.get("block_out_channels", (64,))) - 1)
        return LatentGeometry(int(config.get("latent_channels", 4)), ratio, frames_period=1)

    @classmethod
    def normalisation_of(cls, config: Mapping[str, Any]) -> Normalisation:
        """Normalisation by scaling_factor after shift_factor (Stable Diffusion 3, Flux), or by channel and the factor
        where config.json has the channels' mean and deviation (Playground 2.5)."""
        factor = float(config.get("scaling_factor", 0.18215))
        if config.get("latents_mean") is not None and config.get("latents_std") is not None:
            return channel_statistics(config, cls.geometry_of(config).channels, factor)
        return ByFactor(factor, float(config.get("shift_factor") or 0.0))

    def _moments(self, model: Any, video_CTHW: Tensor) -> tuple[Tensor, Tensor]:
        moments = [
            model.encode(frames).latent_dist for frames in video_CTHW.transpose(0, 1).split(LATENT_FRAMES_AT_ONCE)
        ]
        mean_TCHW = torch.cat([one.mean for one in moments])
        return mean_TCHW.transpose(0, 1), torch.cat([one.logvar for one in moments]).transpose(0, 1)

    def _video(self, model: Any, latents_CTHW: Tensor) -> Tensor:
        slices = latents_CTHW.transpose(0, 1).split(self._frames_at_once)
        return torch.cat([model.decode(frames).sample for frames in slices]).transpose(0, 1)

"""CogVideoX's autoencoder.

Shapes: C channels, T frames, H height, W width.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from vidtron.config.geometry import LatentGeometry, causal_geometry
from vidtron.encoders.diffusers_vae import DiffusersAutoencoder
from vidtron.encoders.normalisation import ByFactor


class CogVideoXAutoencoder(DiffusersAutoencoder):
    """AutoencoderKLCogVideoX. Its group norms see all latent frames that are decoded together: more of them are
    faster, take more memory and give a slightly different result; their number is even."""

    CLASS_NAME: ClassVar[str] = "AutoencoderKLCogVideoX"

    @classmethod
    def geometry_of(cls, config: Mapping[str, Any]) -> LatentGeometry:
        """Causal: by default 4 frames x 8 x 8 pixels to 16 channels."""
        return causal_geometry(
            int(config.get("latent_channels", 16)),
            int(config.get("temporal_compression_ratio", 4)),
            2 ** (len(config.get("block_out_channels", (1, 1, 1, 1))) - 1),
        )

    @classmethod
    def normalisation_of(cls, config: Mapping[str, Any]) -> ByFactor:
        """Normalisation by config.json's scaling_factor."""
        return ByFactor(float(config.get("scaling_factor", 1.15258426)))

    def _moments(self, model: Any, video_CTHW: Tensor) -> tuple[Tensor, Tensor]:
        moments = model.encode(video_CTHW[None]).latent_dist
        return moments.mean[0], moments.logvar[0]

    def _video(self, model: Any, latents_CTHW: Tensor) -> Tensor:
        """diffusers gives an even number of latent frames `ratio` pixel frames each, the first as well. The last
        latent frame is therefore doubled in that case and its frames are cut off: the network is causal in time, up
        to its group norms."""
        model.num_latent_frames_batch_size = self._frames_at_once
        frames = latents_CTHW.shape[1]
        if frames % 2 == 0:
            latents_CTHW = torch.cat([latents_CTHW, latents_CTHW[:, -1:]], dim=1)
        return model.decode(latents_CTHW[None]).sample[0][:, : self.geometry.frames_of(frames)]

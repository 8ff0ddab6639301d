"""The latents of a condition image, and what latents are multiplied by, alike in training and sampling.

Shape letters: T latent frames, C channels, H, W rows and columns, F pixel frames.
"""

import torch
from torch import Tensor

from vidtron.config.run import RunConfig
from vidtron.diffusion.conditioning import image_condition
from vidtron.encoders.base import Posterior, VideoAutoencoder


def image_latent_scale(run: RunConfig) -> float:
    """Factor on the latents of a condition image."""
    scale = run.encoders.scale_factor
    return {"scaled": scale, "unscaled": 1.0, "inverted": 1 / scale}[run.objective.image_latent_scale]


def scaled_latents(
    autoencoder: VideoAutoencoder, video_CFHW: Tensor, generator: torch.Generator, scale: float
) -> Tensor:
    """Latents [T, C, H, W] of one video, drawn from their posterior, times `scale`; fp32."""
    return drawn_latents(autoencoder.encode(video_CFHW), generator, scale)


def drawn_latents(posterior: Posterior, generator: torch.Generator, scale: float) -> Tensor:
    """Latents [T, C, H, W] drawn from their posterior, times `scale`; fp32."""
    return posterior.sample(generator).permute(1, 0, 2, 3) * scale


def condition_latents(
    autoencoder: VideoAutoencoder, image_C1HW: Tensor, generator: torch.Generator, run: RunConfig, frames: int
) -> Tensor:
    """Condition latents [T, C, H, W] of an image encoded alone.

    Args:
        autoencoder: encodes.
        image_C1HW: pixels in [-1, 1].
        generator: of the posterior's draw.
        run: says how they are scaled and which frames hold them.
        frames: latent frames that the network sees.
    """
    image_1CHW = scaled_latents(autoencoder, image_C1HW, generator, image_latent_scale(run))
    return image_condition(image_1CHW, frames, all_frames=run.objective.image_latent_frames == "all")

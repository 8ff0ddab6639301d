"""The latents of a condition image, and how latents are normalised, alike in training and sampling.

Shape letters: T latent frames, C channels, H, W rows and columns, F pixel frames.
"""

import torch
from torch import Tensor

from vidtron.config.run import RunConfig
from vidtron.diffusion.conditioning import image_condition
from vidtron.encoders.base import Posterior, VideoAutoencoder
from vidtron.encoders.normalisation import ByFactor, Normalisation


def image_normalisation(run: RunConfig, normalisation: Normalisation) -> Normalisation:
    """Normalisation of a condition image's latents, where those of videos have `normalisation`.

    Raises:
        ValueError: it cannot be inverted.
    """
    match run.objective.image_latent_scale:
        case "scaled":
            return normalisation
        case "unscaled":
            return ByFactor()
        case "inverted":
            return normalisation.inverted()


def normalised_latents(
    autoencoder: VideoAutoencoder, video_CFHW: Tensor, generator: torch.Generator, normalisation: Normalisation
) -> Tensor:
    """Latents [T, C, H, W] of one video, drawn from their posterior and normalised; fp32."""
    return drawn_latents(autoencoder.encode(video_CFHW), generator, normalisation)


def drawn_latents(posterior: Posterior, generator: torch.Generator, normalisation: Normalisation) -> Tensor:
    """Latents [T, C, H, W] drawn from their posterior and normalised; fp32."""
    return normalisation.apply(posterior.sample(generator).permute(1, 0, 2, 3))


def condition_latents(
    autoencoder: VideoAutoencoder,
    image_C1HW: Tensor,
    generator: torch.Generator,
    run: RunConfig,
    normalisation: Normalisation,
    frames: int,
) -> Tensor:
    """Condition latents [T, C, H, W] of an image encoded alone.

    Args:
        autoencoder: encodes.
        image_C1HW: pixels in [-1, 1].
        generator: of the posterior's draw.
        run: says which frames hold them.
        normalisation: `image_normalisation` of the run.
        frames: latent frames that the network sees.
    """
    image_1CHW = normalised_latents(autoencoder, image_C1HW, generator, normalisation)
    return image_condition(image_1CHW, frames, all_frames=run.objective.image_latent_frames == "all")

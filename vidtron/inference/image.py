"""The image that an image-to-video model is given, from its file to latents.

Shape letters: T latent frames, C channels, H, W rows and columns, F pixel frames.
"""

from pathlib import Path

import torch
from torch import Tensor

from vidtron.data.decoding.decode import resize_to_cover
from vidtron.diffusion.conditioning import image_condition
from vidtron.encoders.base import Posterior, VideoAutoencoder
from vidtron.encoders.normalisation import Normalisation
from vidtron.inference.video_io import pixels_CFHW


def read_image(path: Path, height: int, width: int) -> Tensor:
    """Pixels [3, 1, height, width] in [-1, 1]: upright, resized to cover the size and cut to it around the centre.

    Transparent parts are laid on white.

    Raises:
        OSError: it cannot be read, or is no image.
    """
    import numpy as np
    from PIL import Image, ImageOps

    with Image.open(path) as file:
        picture = ImageOps.exif_transpose(file).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    colours_HWC = np.asarray(Image.alpha_composite(white, picture).convert("RGB")).copy()
    frame_FCHW = torch.from_numpy(colours_HWC).permute(2, 0, 1)[None].contiguous()
    return pixels_CFHW(resize_to_cover(frame_FCHW, height, width))


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
    normalisation: Normalisation,
    frames: int,
    *,
    all_frames: bool,
) -> Tensor:
    """Condition latents [T, C, H, W] of an image encoded alone.

    Args:
        autoencoder: encodes.
        image_C1HW: pixels in [-1, 1].
        generator: of the posterior's draw.
        normalisation: `image_normalisation` of the run.
        frames: latent frames that the network sees.
        all_frames: the image in every frame, not in the first alone.
    """
    image_1CHW = normalised_latents(autoencoder, image_C1HW, generator, normalisation)
    return image_condition(image_1CHW, frames, all_frames=all_frames)

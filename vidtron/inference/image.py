"""The image that an image-to-video model is given, from its file."""

from pathlib import Path

import torch
from torch import Tensor

from vidtron.data.decoding.decode import resize_to_cover
from vidtron.data.decoding.pixels import pixels_CFHW


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

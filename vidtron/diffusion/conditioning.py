"""How an image-to-video model is given its image (CogVideoX's training).

Shape letters: T latent frames, C channels, H, W rows and columns.
"""

import torch
from torch import Tensor

IMAGE_NOISE_LOG_MEAN, IMAGE_NOISE_LOG_STD = -3.0, 0.5


def noisy_image(image: Tensor, strength: Tensor, noise: Tensor) -> Tensor:
    """The condition's pixels with noise of standard deviation exp(N(-3, 0.5)), so that a video need not copy them.

    Args:
        image: pixels in [-1, 1].
        strength: one standard normal number.
        noise: standard normal, like `image`.
    """
    log_sigma = strength * IMAGE_NOISE_LOG_STD + IMAGE_NOISE_LOG_MEAN
    return image + log_sigma.exp().item() * noise


def image_condition(image_1CHW: Tensor, frames: int, *, all_frames: bool = False) -> Tensor:
    """Condition latents [T, C, H, W]: those of the image in the first frame and zeros after it, or in all frames."""
    if all_frames:
        return image_1CHW.expand(frames, -1, -1, -1)
    return torch.cat((image_1CHW, image_1CHW.new_zeros(frames - 1, *image_1CHW.shape[1:])))

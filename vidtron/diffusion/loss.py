"""Losses, one number a sample.

Shape letters: B samples, `...` the latent's other axes.
"""

from torch import Tensor


def sample_mean(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over all elements of a sample, or over those of the frames that are learned: [B, ...] -> [B].

    Args:
        values: one per element.
        mask: broadcasts against `values`; True where the sample is learned. A sample with none is an error of the
            caller: its mean is NaN.
    """
    if mask is None:
        return values.flatten(1).mean(dim=1)
    mask = mask.to(values.dtype).expand_as(values)
    return (values * mask).flatten(1).sum(dim=1) / mask.flatten(1).sum(dim=1)


def mean_squared_error(output: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of the squared error of each sample, in fp32: [B, ...] -> [B].

    With velocity prediction this is CogVideoX's loss, its weight 1 / (1 - alpha^2) on the clean latent's error
    cancelled out.
    """
    return sample_mean((output.float() - target.float()).square(), mask)


def mean_absolute_error(output: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of the absolute error of each sample, in fp32: [B, ...] -> [B]."""
    return sample_mean((output.float() - target.float()).abs(), mask)


def add_offset(noise: Tensor, offset: Tensor, level: float) -> Tensor:
    """Offset noise, which lets a model learn a sample's mean: noise + level offset.

    Args:
        noise: standard normal.
        offset: standard normal, broadcasts against `noise`; SAT draws one number a sample.
        level: 0 is none.
    """
    return noise + level * offset

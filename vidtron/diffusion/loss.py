"""Losses, one number a sample.

Shape letters: B samples, `...` the latent's other axes.
"""

from torch import Tensor


def mean_squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Mean over all elements of a sample, in fp32: [B, ...] -> [B].

    With velocity prediction this is CogVideoX's loss, its weight 1 / (1 - alpha^2) on the clean latent's error
    cancelled out.
    """
    return (output.float() - target.float()).square().flatten(1).mean(dim=1)

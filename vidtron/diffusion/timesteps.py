"""Timesteps of a global batch from uniform numbers.

Shape letter: B samples.
"""

import torch
from torch import Tensor


def stratify(uniform_B: Tensor, strata_B: Tensor, count: int) -> Tensor:
    """One draw in each of `count` equal parts of [0, 1): (stratum + uniform) / count.

    Args:
        uniform_B: in [0, 1).
        strata_B: number of each sample's part, a permutation of 0..count-1 over the global batch.
        count: samples of the global batch.

    Returns:
        fp64 [B] in [0, 1), each uniformly distributed on its own if the permutation is random.
    """
    return (strata_B.to(torch.float64) + uniform_B.to(torch.float64)) / count


def discrete_timesteps(quantiles_B: Tensor, timesteps: int = 1000) -> Tensor:
    """Quantiles in [0, 1) of the uniform density on 0..timesteps-1 -> timesteps, int64 [B]."""
    return (quantiles_B.to(torch.float64) * timesteps).floor().long().clamp(0, timesteps - 1)

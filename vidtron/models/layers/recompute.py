"""Recomputing the cheap parts of a layer instead of keeping their results for the backward pass."""

from collections.abc import Callable
from typing import Any

import torch
from megatron.core.tensor_parallel.random import CheckpointWithoutOutput
from torch import Tensor


class Recomputed:
    """A cheap function whose result the next expensive operation would keep for its backward pass.

    The result's memory is given back once that operation has run, and filled again from the function's inputs when
    the gradient of `consumer` arrives. Inside a region that is itself recomputed this happens on the second pass only.

        norm = Recomputed(lambda x: layer_norm(x), hidden)
        y = linear(norm.value)
        norm.release_after(y)
    """

    def __init__(self, function: Callable[..., Any], *inputs: Tensor, enabled: bool = True):
        self._checkpoint = None
        if enabled and torch.is_grad_enabled():
            # `fp8=None`: mcore's constructor takes anything else, False included, for "FP8 is on".
            self._checkpoint = CheckpointWithoutOutput(fp8=None)
            self.value = self._checkpoint.checkpoint(function, *inputs)
        else:
            self.value = function(*inputs)

    def release_after(self, consumer: Tensor) -> None:
        """Give the value's memory back; `consumer` is the result of the operation that used it last."""
        if self._checkpoint is not None:
            self._checkpoint.discard_output_and_register_recompute(consumer)
            self.value = None

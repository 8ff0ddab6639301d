"""Repair to megatron-core's distributed optimizer: a checkpoint of a gradient buffer of several buckets.

In the fully_reshardable form all buckets of a buffer are first put into one tensor, without the padding at the end of
each (optimizer/distrib_optimizer.py:1027, 1113), and then parameters are cut out of it at their places in the padded
buffer (:1501). From the second bucket on every parameter's weights and moments so come from a place too far on; the
last ones are filled up with zeros, with a warning. There are several buckets under --overlap-grad-reduce, and wherever
parameters have one of their own. Line numbers are those of megatron-core 0.16.1; 0.19.2 does the same.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

_repaired = False


def repair() -> None:
    """Make checkpoints of the distributed optimizer right where there are several buckets."""
    global _repaired
    if _repaired:
        return
    _repaired = True
    original = DistributedOptimizer.sharded_param_state_fully_reshardable

    @functools.wraps(original)
    def sharded_param_state(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _padding_kept(self.buffers):
            return original(self, *args, **kwargs)

    DistributedOptimizer.sharded_param_state_fully_reshardable = sharded_param_state  # type: ignore[method-assign]


@contextlib.contextmanager
def _padding_kept(buffers: list[Any]) -> Iterator[None]:
    """While open, buckets and buffers count their padding among their elements."""
    sizes = [(buffer, buffer.numel) for buffer in buffers]
    sizes += [(bucket, bucket.grad_data.numel()) for buffer in buffers for bucket in buffer.buckets]
    before = [holder.numel_unpadded for holder, _ in sizes]
    for holder, size in sizes:
        holder.numel_unpadded = size
    try:
        yield
    finally:
        for (holder, _), size in zip(sizes, before, strict=True):
            holder.numel_unpadded = size

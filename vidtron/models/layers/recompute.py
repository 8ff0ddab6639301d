"""Recomputing the cheap parts of a layer instead of keeping their results for the backward pass.

mcore's CheckpointWithoutOutput does the same by emptying the result's storage and copying the recomputed one into it;
here the kept reference itself is replaced, so that nothing is copied and what another rank's collective or a view
still holds stays whole.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class Recomputed:
    """A cheap, deterministic function whose result the next operation would keep for its backward pass.

    What runs inside `not_kept` keeps a note instead of the value; when its gradient needs the value, the function runs
    again on its inputs. Inside a region that is itself recomputed this happens on the second pass only. One backward
    pass is possible; the inputs must not be changed before it.

        norm = Recomputed(lambda x: layer_norm(x), hidden)
        with norm.not_kept():
            y = linear(norm.value)
    """

    def __init__(self, function: Callable[..., Any], *inputs: Tensor, enabled: bool = True):
        self._region = _Region(function, inputs) if enabled and torch.is_grad_enabled() else None
        self.value = function(*inputs) if self._region is None else _Run.apply(self._region, *inputs)

    @contextmanager
    def not_kept(self) -> Iterator[None]:
        """Operations inside do not keep the value; it is gone afterwards."""
        if self._region is None:
            yield
        else:
            values = self.value if isinstance(self.value, tuple) else (self.value,)
            storages = {value.untyped_storage().data_ptr(): index for index, value in enumerate(values)}
            with torch.autograd.graph.saved_tensors_hooks(self._pack(storages), _unpack):
                yield
        self.value = None

    def _pack(self, storages: dict[int, int]) -> Callable[[Tensor], Any]:
        region = self._region

        def pack(tensor: Tensor) -> Any:
            index = storages.get(tensor.untyped_storage().data_ptr())
            if index is None:
                return tensor
            return region, index, tensor.size(), tensor.stride(), tensor.storage_offset()

        return pack


def _unpack(packed: Any) -> Tensor:
    if isinstance(packed, Tensor):
        return packed
    region, index, size, stride, offset = packed
    return region.outputs()[index].detach().as_strided(size, stride, offset)


class _Region:
    """The function and its inputs, and its outputs once the backward pass has asked for them."""

    def __init__(self, function: Callable[..., Any], inputs: tuple[Tensor, ...]):
        self.function = function
        self.inputs = inputs
        self.detached: list[Tensor] = []
        self._versions = [x._version for x in inputs]
        self._outputs: tuple[Tensor, ...] = ()

    def outputs(self) -> tuple[Tensor, ...]:
        """The outputs with their own graph down to `detached`, computed on the first call."""
        if not self._outputs:
            if [x._version for x in self.inputs] != self._versions:
                raise RuntimeError("an input of a recomputed function was changed in place before the backward pass")
            self.detached = [x.detach().requires_grad_(x.requires_grad) for x in self.inputs]
            with torch.enable_grad():
                outputs = self.function(*self.detached)
            self._outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return self._outputs

    def release(self) -> None:
        """Give back all memory that the region holds."""
        self.inputs, self.detached, self._versions, self._outputs = (), [], [], ()


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, region: _Region, *inputs: Tensor) -> Any:
        ctx.region = region
        return region.function(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        region = ctx.region
        torch.autograd.backward(region.outputs(), grads)
        gradients = tuple(x.grad for x in region.detached)
        region.release()
        return (None, *gradients)

"""Counts what a step keeps and what it sends, by watching tensors and collectives, not by a formula."""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class SavedTensors:
    """Memory that the backward pass holds after a forward pass, parameters and inputs not counted."""

    def __init__(self) -> None:
        self._kept: list[Tensor] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Notice every tensor that an operation saves."""

        def pack(tensor: Tensor) -> Tensor:
            self._kept.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield

    def bytes(self, excluded: list[Tensor]) -> int:
        """Bytes of the distinct storages, as large as they are now: what was given back in between counts nothing."""
        known = {tensor.untyped_storage()._cdata for tensor in excluded}
        storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in self._kept}
        return sum(storage.nbytes() for key, storage in storages.items() if key not in known)


def _bytes(tensors: Any) -> int:
    if isinstance(tensors, Tensor):
        return tensors.numel() * tensors.element_size()
    return sum(_bytes(tensor) for tensor in tensors)


class Collectives(TorchDispatchMode):
    """Bytes that this rank sends, by kind of collective.

    Counted is what a bandwidth-optimal algorithm sends from each of n ranks: an all-reduce of B bytes 2 B (n-1)/n, an
    all-gather of a shard of B (n-1) B, a reduce-scatter of B bytes in all B (n-1)/n, an all-to-all B (n-1)/n, a send
    B.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sent: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func.namespace == "c10d":
            self._count(func._opname, args)
        return func(*args, **(kwargs or {}))

    def _count(self, name: str, args: tuple) -> None:
        group = next((arg for arg in args if isinstance(arg, torch.ScriptObject)), None)
        ranks = torch.distributed.ProcessGroup.unbox(group).size() if group is not None else 1
        rest = (ranks - 1) / ranks
        kinds = {
            "allreduce_": ("all-reduce", lambda: 2 * rest * _bytes(args[0])),
            "allreduce_coalesced_": ("all-reduce", lambda: 2 * rest * _bytes(args[0])),
            "_allgather_base_": ("all-gather", lambda: (ranks - 1) * _bytes(args[1])),
            "allgather_into_tensor_coalesced_": ("all-gather", lambda: (ranks - 1) * _bytes(args[1])),
            "allgather_": ("all-gather", lambda: (ranks - 1) * _bytes(args[1])),
            "_reduce_scatter_base_": ("reduce-scatter", lambda: rest * _bytes(args[1])),
            "reduce_scatter_tensor_coalesced_": ("reduce-scatter", lambda: rest * _bytes(args[1])),
            "reduce_scatter_": ("reduce-scatter", lambda: rest * _bytes(args[1])),
            "alltoall_base_": ("all-to-all", lambda: rest * _bytes(args[1])),
            "alltoall_": ("all-to-all", lambda: rest * _bytes(args[1])),
            "send": ("send", lambda: _bytes(args[0])),
            "broadcast_": ("broadcast", lambda: rest * _bytes(args[0])),
        }
        if name in ("recv_", "recv_any_source_", "barrier", "monitored_barrier_"):
            return
        kind, size = kinds[name]  # an unknown collective must not be missed in silence
        if ranks > 1:
            self.sent[kind] += math.ceil(size())
            self.calls[kind] += 1

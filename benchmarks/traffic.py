"""Counts what a step keeps and what it sends, by watching tensors and collectives, not by a formula."""

import math
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class SavedTensors(TorchDispatchMode):
    """Memory that is still held after what ran inside: between a forward and a backward pass, what the latter needs.

    Every storage that an operation makes is noticed by a weak reference, whoever keeps it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self._made[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        return result

    def bytes(self, excluded: list[Tensor]) -> int:
        """Bytes of the distinct storages that live, without those of the `excluded` tensors."""
        known = {tensor.untyped_storage()._cdata for tensor in excluded}
        return sum(size for key, (ref, size) in self._made.items() if key not in known and not ref.expired())


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

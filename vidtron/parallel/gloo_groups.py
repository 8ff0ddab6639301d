"""One gloo group for each set of ranks."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch.distributed as dist
from megatron.core import parallel_state


@contextlib.contextmanager
def shared_groups(backend: str) -> Iterator[None]:
    """While open, megatron-core's groups with the same ranks are one group, if the backend is gloo.

    It makes some sixty groups, most of them with the same few sets of ranks (parallel_state.py:214, 0.16.1). Each
    gloo group has a thread that wakes a hundred times a second and two more: on a machine whose ranks share its cores
    that takes more time than a small network's step. NCCL groups stay apart, since they run at the same time.
    """
    if backend != "gloo":
        yield
        return
    original = parallel_state.create_group
    known: dict[tuple[int, ...], Any] = {tuple(range(dist.get_world_size())): dist.group.WORLD}

    def create_group(ranks: Any = None, **kwargs: Any) -> Any:
        key = tuple(ranks if ranks is not None else range(dist.get_world_size()))
        if key not in known:
            known[key] = original(ranks=ranks, **kwargs)
        return known[key]

    parallel_state.create_group = create_group
    try:
        yield
    finally:
        parallel_state.create_group = original

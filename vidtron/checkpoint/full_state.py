"""Checkpoints read by one process that has no model, process group or GPU: for tools and tests."""

import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from megatron.core import dist_checkpointing
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from vidtron.checkpoint.state import Part, everything

_OPTIMIZER_PREFIX = "optimizer."


def tensor_shapes_on_disk(path: Path) -> dict[str, tuple[int, ...]]:
    """Global name -> shape of every tensor in a checkpoint, optimizer state included (`optimizer.state.*`)."""
    entries = FileSystemReader(path).read_metadata().state_dict_metadata
    return {key: tuple(entry.size) for key, entry in entries.items() if isinstance(entry, TensorStorageMetadata)}


def read_full_state(path: Path, *, optimizer: bool = False, part: Part = everything) -> dict[str, torch.Tensor]:
    """The whole model's weights, or a part of them, on the CPU, by global name.

    Args:
        path: an `iter_*` folder.
        optimizer: read the optimizer's state as well, under `optimizer.state.*`.
        part: which of all these names to read.
    """
    reader = FileSystemReader(path)
    tensors: dict[str, Any] = {
        key: torch.empty(entry.size, dtype=entry.properties.dtype)
        for key, entry in reader.read_metadata().state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata)
        and (optimizer or not key.startswith(_OPTIMIZER_PREFIX))
        and part(key)
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        dcp.load(tensors, storage_reader=reader, no_dist=True)
    return tensors


def read_state(path: Path) -> dict[str, Any]:
    """The plain state that was saved beside the tensors: iteration, consumed samples, ..."""
    return dist_checkpointing.load_common_state_dict(str(path))["state"]

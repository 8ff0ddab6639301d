"""Checkpoints read by one process that has no model, process group or GPU: for tools and tests."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from vidtron.checkpoint.ema_names import ema_key, ema_of_key
from vidtron.checkpoint.errors import UnreadableFileError
from vidtron.checkpoint.metadata_file import read_metadata
from vidtron.checkpoint.reading import CheckpointReader, loading, read_common
from vidtron.checkpoint.state import Part, everything

_OPTIMIZER_PREFIX = "optimizer."


def tensor_shapes_on_disk(path: Path) -> dict[str, tuple[int, ...]]:
    """Global name -> shape of every tensor in a checkpoint, optimizer state included (`optimizer.state.*`).

    Raises:
        UnreadableFileError: what lists them is damaged, or asks for code to be run.
    """
    entries = read_metadata(path).state_dict_metadata
    return {key: tuple(entry.size) for key, entry in entries.items() if isinstance(entry, TensorStorageMetadata)}


def ema_names_in(path: Path) -> list[str]:
    """Names of the averages of the weights (EMA) in a checkpoint.

    Args:
        path: an `iter_*` folder.
    """
    found = (ema_of_key(key) for key in tensor_shapes_on_disk(path))
    return sorted({average for average in found if average is not None})


def read_full_state(
    path: Path, *, optimizer: bool = False, average: str | None = None, part: Part = everything
) -> dict[str, torch.Tensor]:
    """The whole model's weights, or a part of them, on the CPU, by global name.

    Args:
        path: an `iter_*` folder.
        optimizer: read the optimizer's state as well, under `optimizer.state.*`.
        part: which of all these names to read.
        average: name of an average that takes the place of the weights, in fp32; those that were not trained stay.

    Raises:
        ValueError: the checkpoint does not have the average.
        UnreadableFileError: a file of it is damaged, or asks for code to be run.
    """
    read_common(path)
    stored = {
        key: entry
        for key, entry in read_metadata(path).state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    keys = {
        key: key for key in stored if ema_of_key(key) is None and (optimizer or not key.startswith(_OPTIMIZER_PREFIX))
    }
    if average is not None:
        prefix = ema_key(average, "")
        averaged = {key.removeprefix(prefix): key for key in stored if key.startswith(prefix)}
        if not averaged:
            raise ValueError(
                f"{path}: no average {average}; accepted: {', '.join(ema_names_in(path)) or 'none, no EMA'}"
            )
        keys |= averaged
    keys = {name: key for name, key in keys.items() if part(name)}
    tensors: dict[str, Any] = {
        key: torch.empty(stored[key].size, dtype=stored[key].properties.dtype) for key in keys.values()
    }
    with loading(path):
        dcp.load(tensors, storage_reader=CheckpointReader(path), no_dist=True)
    return {name: tensors[key] for name, key in keys.items()}


def read_state(path: Path) -> dict[str, Any]:
    """The plain state that was saved beside the tensors: iteration, consumed samples, ...

    Raises:
        UnreadableFileError: its file is damaged, or asks for code to be run.
    """
    state = read_common(path).get("state")
    if not isinstance(state, dict):
        raise UnreadableFileError(path, "its plain state has no entry `state`; accepted: a checkpoint of vidtron")
    return state

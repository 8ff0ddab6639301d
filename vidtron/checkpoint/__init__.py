"""What a run writes to continue from, and how it is read."""

from vidtron.checkpoint.adapters import (
    base_errors,
    checksums,
    load_weights,
    load_with_base,
    record_base,
    take_adapters,
)
from vidtron.checkpoint.engine import CheckpointError, CheckpointWriter, load
from vidtron.checkpoint.folders import completed, folder_name, is_complete, iteration_of, latest, prune
from vidtron.checkpoint.full_state import read_full_state, read_state
from vidtron.checkpoint.state import Part, everything

__all__ = [
    "CheckpointError",
    "CheckpointWriter",
    "Part",
    "base_errors",
    "checksums",
    "completed",
    "everything",
    "folder_name",
    "is_complete",
    "iteration_of",
    "latest",
    "load",
    "load_weights",
    "load_with_base",
    "prune",
    "read_full_state",
    "read_state",
    "record_base",
    "take_adapters",
]

"""What a run writes to continue from, and how it is read."""

from vidtron.checkpoint.adapters import (
    base_errors,
    checksums,
    load_average_with_base,
    load_start,
    load_with_base,
    record_base,
    take_adapters,
)
from vidtron.checkpoint.averages import AveragedPart, Averages
from vidtron.checkpoint.engine import CheckpointError, CheckpointWriter, load, load_average
from vidtron.checkpoint.folders import completed, folder_name, is_complete, iteration_of, latest, prune
from vidtron.checkpoint.full_state import averages_in, read_full_state, read_state
from vidtron.checkpoint.state import Part, everything

__all__ = [
    "AveragedPart",
    "Averages",
    "CheckpointError",
    "CheckpointWriter",
    "Part",
    "averages_in",
    "base_errors",
    "checksums",
    "completed",
    "everything",
    "folder_name",
    "is_complete",
    "iteration_of",
    "latest",
    "load",
    "load_average",
    "load_average_with_base",
    "load_start",
    "load_with_base",
    "prune",
    "read_full_state",
    "read_state",
    "record_base",
    "take_adapters",
]

"""What a run writes to continue from, and how it is read."""

from vidtron.checkpoint.engine import CheckpointError, CheckpointWriter, load
from vidtron.checkpoint.folders import completed, folder_name, is_complete, iteration_of, latest, prune
from vidtron.checkpoint.full_state import read_full_state, read_state

__all__ = [
    "CheckpointError",
    "CheckpointWriter",
    "completed",
    "folder_name",
    "is_complete",
    "iteration_of",
    "latest",
    "load",
    "prune",
    "read_full_state",
    "read_state",
]

"""What a run writes to continue from, and how it is read."""

from vidtron.checkpoint.averages import AveragedPart, Averages
from vidtron.checkpoint.engine import CheckpointError, CheckpointWriter, load, load_average
from vidtron.checkpoint.folders import completed, folder_name, is_complete, iteration_of, latest, prune
from vidtron.checkpoint.full_state import averages_in, read_full_state, read_state

__all__ = [
    "AveragedPart",
    "Averages",
    "CheckpointError",
    "CheckpointWriter",
    "averages_in",
    "completed",
    "folder_name",
    "is_complete",
    "iteration_of",
    "latest",
    "load",
    "load_average",
    "prune",
    "read_full_state",
    "read_state",
]

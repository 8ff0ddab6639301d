"""What a run writes to continue from and how it is read; weights in other formats."""

from vidtron.checkpoint.conversion import Conversion, convert
from vidtron.checkpoint.engine import CheckpointError, CheckpointWriter, load
from vidtron.checkpoint.folders import completed, folder_name, is_complete, iteration_of, latest, prune
from vidtron.checkpoint.formats import (
    ConversionError,
    Format,
    WeightSource,
    detect_format,
    holds_weights_only,
    open_weights,
)
from vidtron.checkpoint.full_state import read_full_state, read_state
from vidtron.checkpoint.weights_into_model import load_weights

__all__ = [
    "CheckpointError",
    "CheckpointWriter",
    "Conversion",
    "ConversionError",
    "Format",
    "WeightSource",
    "completed",
    "convert",
    "detect_format",
    "folder_name",
    "holds_weights_only",
    "is_complete",
    "iteration_of",
    "latest",
    "load",
    "load_weights",
    "open_weights",
    "prune",
    "read_full_state",
    "read_state",
]

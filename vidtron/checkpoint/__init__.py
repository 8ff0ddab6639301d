"""What a run writes to continue from and how it is read; weights in other formats."""

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
from vidtron.checkpoint.conversion import Conversion, convert
from vidtron.checkpoint.engine import CheckpointError, CheckpointWriter, load, load_average
from vidtron.checkpoint.folders import (
    clear_unfinished,
    completed,
    folder_name,
    is_complete,
    iteration_of,
    latest,
    prune,
)
from vidtron.checkpoint.formats import (
    ConversionError,
    Format,
    WeightSource,
    detect_format,
    holds_weights_only,
    open_weights,
)
from vidtron.checkpoint.full_state import averages_in, read_full_state, read_state
from vidtron.checkpoint.state import Part, everything
from vidtron.checkpoint.weights_into_model import load_weights

__all__ = [
    "AveragedPart",
    "Averages",
    "CheckpointError",
    "CheckpointWriter",
    "Conversion",
    "ConversionError",
    "Format",
    "Part",
    "WeightSource",
    "averages_in",
    "base_errors",
    "checksums",
    "clear_unfinished",
    "completed",
    "convert",
    "detect_format",
    "everything",
    "folder_name",
    "holds_weights_only",
    "is_complete",
    "iteration_of",
    "latest",
    "load",
    "load_average",
    "load_average_with_base",
    "load_start",
    "load_weights",
    "load_with_base",
    "open_weights",
    "prune",
    "read_full_state",
    "read_state",
    "record_base",
    "take_adapters",
]

"""What a run writes to continue from and how it is read; weights in other formats."""

from vidtron.checkpoint.adapters import (
    base_errors,
    base_folder,
    checksums,
    load_average_with_base,
    load_start,
    load_with_base,
    record_base,
    take_adapters,
)
from vidtron.checkpoint.averages import AveragedPart, Averages
from vidtron.checkpoint.conversion import Conversion, convert
from vidtron.checkpoint.engine import CheckpointWriter, load, load_average
from vidtron.checkpoint.errors import CheckpointError, UnreadableFileError
from vidtron.checkpoint.folders import (
    clear_unfinished,
    completed,
    folder_name,
    is_complete,
    iteration_of,
    latest,
    prune,
    resolve_checkpoint,
)
from vidtron.checkpoint.formats import (
    ConversionError,
    WeightSource,
    detect_format,
    holds_weights_only,
    open_weights,
)
from vidtron.checkpoint.full_state import averages_in, read_full_state, read_state
from vidtron.checkpoint.integrity import (
    Choice,
    Inspection,
    Search,
    Verification,
    candidates,
    choose,
    inspect,
    refusals,
    shared_inspect,
)
from vidtron.checkpoint.state import Part, everything
from vidtron.checkpoint.weights_into_model import load_weights

__all__ = [
    "AveragedPart",
    "Averages",
    "CheckpointError",
    "CheckpointWriter",
    "Choice",
    "Conversion",
    "ConversionError",
    "Inspection",
    "Part",
    "Search",
    "UnreadableFileError",
    "Verification",
    "WeightSource",
    "averages_in",
    "base_errors",
    "base_folder",
    "candidates",
    "checksums",
    "choose",
    "clear_unfinished",
    "completed",
    "convert",
    "detect_format",
    "everything",
    "folder_name",
    "holds_weights_only",
    "inspect",
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
    "refusals",
    "resolve_checkpoint",
    "shared_inspect",
    "take_adapters",
]

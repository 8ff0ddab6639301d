"""What a run writes to continue from and how it is read; weights in other formats."""

from vidtron.checkpoint.adapter_checkpoints import (
    base_errors,
    base_folder,
    checksums,
    load_ema_with_base,
    load_start,
    load_with_base,
    record_base,
    take_adapters,
)
from vidtron.checkpoint.conversion import Conversion, convert
from vidtron.checkpoint.ema import EmaPart, EmaState
from vidtron.checkpoint.engine import CheckpointWriter, load, load_ema
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
from vidtron.checkpoint.full_state import ema_names_in, read_full_state, read_state
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
    "CheckpointError",
    "CheckpointWriter",
    "Choice",
    "Conversion",
    "ConversionError",
    "EmaPart",
    "EmaState",
    "Inspection",
    "Part",
    "Search",
    "UnreadableFileError",
    "Verification",
    "WeightSource",
    "base_errors",
    "base_folder",
    "candidates",
    "checksums",
    "choose",
    "clear_unfinished",
    "completed",
    "convert",
    "detect_format",
    "ema_names_in",
    "everything",
    "folder_name",
    "holds_weights_only",
    "inspect",
    "is_complete",
    "iteration_of",
    "latest",
    "load",
    "load_ema",
    "load_ema_with_base",
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

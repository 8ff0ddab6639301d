"""Formats of weights, told by what lies in a folder, and opened for reading tensor by tensor."""

from vidtron.checkpoint.formats.base import Content, ConversionError, WeightSource, WeightTarget
from vidtron.checkpoint.formats.megatron import configuration_beside, holds_weights_only
from vidtron.checkpoint.formats.table import detect_format, format_named, formats, open_weights
from vidtron.checkpoint.formats.weight_format import WeightFormat

__all__ = [
    "Content",
    "ConversionError",
    "WeightFormat",
    "WeightSource",
    "WeightTarget",
    "configuration_beside",
    "detect_format",
    "format_named",
    "formats",
    "holds_weights_only",
    "open_weights",
]

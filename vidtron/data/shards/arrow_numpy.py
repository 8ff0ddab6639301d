"""Arrow's columns as arrays of numpy, without a copy where the layout is numpy's.

Arrow's own conversion imports pandas, which takes longer than opening an index.
"""

import numpy as np
import pyarrow as pa

DTYPES = {pa.int16(): np.int16, pa.int32(): np.int32, pa.int64(): np.int64, pa.float64(): np.float64}
_NO_INTEGER = -1
"""What stands for a null among integers."""


def as_numpy(column: pa.Array) -> np.ndarray | None:
    """Numbers or bools of a column, nulls as -1 or NaN; None if it has others."""
    validity, values = column.buffers()[:2]
    whole = slice(column.offset, column.offset + len(column))
    if pa.types.is_boolean(column.type):
        return _bits(values)[whole]
    if column.type not in DTYPES:
        return None
    numbers = np.frombuffer(values, DTYPES[column.type])[whole]
    if not column.null_count:
        return numbers
    null = np.nan if pa.types.is_floating(column.type) else _NO_INTEGER
    return np.where(_bits(validity)[whole], numbers, numbers.dtype.type(null))


def valid(column: pa.Array) -> np.ndarray:
    """Which values of a column are no nulls."""
    validity = column.buffers()[0]
    if not column.null_count or validity is None:
        return np.ones(len(column), np.bool_)
    return _bits(validity)[column.offset : column.offset + len(column)]


def lengths(column: pa.Array) -> np.ndarray:
    """Lengths of texts, in bytes, or of large lists; those of nulls are of no meaning."""
    kind = np.int64 if pa.types.is_large_list(column.type) else np.int32
    offsets = np.frombuffer(column.buffers()[1], kind)
    return np.diff(offsets[column.offset : column.offset + len(column) + 1])


def _bits(buffer: pa.Buffer) -> np.ndarray:
    return np.unpackbits(np.frombuffer(buffer, np.uint8), bitorder="little").view(np.bool_)

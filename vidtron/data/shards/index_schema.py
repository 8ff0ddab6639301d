"""The columns of an index file."""

from collections.abc import Sequence

import pyarrow as pa

INDEX_NAME = "index.arrow"
OLD_INDEX_NAME = "index.jsonl"
"""Name of an index of version 1."""
FORMAT, VERSION = "vidtron-shards", 2
ROWS_PER_BATCH = 65536
HEADER_KEY = b"header"
CAPTION_KEY = "caption_key"
"""Entry of the header: where in their json the captions of those rows stand whose txt is their json."""
DURATIONS, WHOLE = "durations", "whole"
"""Entry of the header of an index whose durations count the last frame, as earlier ones do not."""
HEADER_SUM_KEY = b"header_crc32"
BUILD_COMMAND = "python tools/build_shards.py --input CLIPS --output SHARDS"
REBUILD_COMMAND = "python tools/index_shards.py FOLDER"

_NAMES = pa.dictionary(pa.int16(), pa.string())
COLUMNS: dict[str, pa.DataType] = {
    "shard": pa.int32(),  # number in the header's list of shards
    "key": pa.string(),
    "media": _NAMES,  # extension of the video or image
    "media_offset": pa.int64(),  # in the shard, bytes
    "media_size": pa.int64(),
    "txt_offset": pa.int64(),
    "txt_size": pa.int64(),
    "json_offset": pa.int64(),  # null where there is none
    "json_size": pa.int64(),
    "width": pa.int32(),
    "height": pa.int32(),
    "frames": pa.int32(),
    "fps": pa.float64(),
    "duration": pa.float64(),
    "codec": _NAMES,
    "pixel_format": _NAMES,
    "plain": pa.bool_(),
    "image": pa.bool_(),
    "caption_characters": pa.int32(),
    "caption_tokens": pa.int32(),  # null where no tokenizer counted them
    "times": pa.large_list(pa.float64()),  # null where frames are regular
}
_NULLABLE = ("json_offset", "json_size", "caption_tokens", "times")
MEMBERS = ("media", "txt", "json")
"""Members of a sample that columns give offset and size of."""


def nullable(column: str) -> bool:
    """Whether a column, which is no score, may hold nulls."""
    return column in _NULLABLE


def schema(scores: Sequence[str]) -> pa.Schema:
    """Columns of an index with these score columns (float64, null where a sample has none)."""
    fields = [pa.field(name, kind, nullable=nullable(name)) for name, kind in COLUMNS.items()]
    fields += [pa.field(name, pa.float64()) for name in scores]
    return pa.schema(fields, metadata={"format": FORMAT, "version": str(VERSION)})

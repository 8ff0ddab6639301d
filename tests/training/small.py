"""A run small enough to train within a test."""

from pathlib import Path
from typing import Any

from tests.distributed import layouts
from vidtron.config.run import RunConfig


def small_run(shards: Path | str | None = None, **flags: Any) -> RunConfig:
    """Two layers of width 32; 9 frames of 32 x 48 pixels: 18 video tokens and 6 of text.

    `flags`: fields of any section.
    """
    defaults = {
        "num_layers": 2,
        "hidden_size": 32,
        "num_attention_heads": 2,
        "decoder": "pyav",
        "global_batch_size": 2,
    }
    run = layouts.small_run(shards or "", **{**defaults, **flags})
    if shards is None:
        run.data.data_path = []
    return run

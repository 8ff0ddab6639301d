"""Saving and resuming."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from vidtron.config.ranges import Range


@dataclass
class CheckpointConfig:
    """Checkpoints and run folder"""

    save: Path | None = None
    """Run folder: checkpoints, config.yaml, metrics.jsonl, samples, tensorboard."""
    load: Path | None = None
    """Run folder (its latest complete checkpoint) or one iter_* folder to resume from. Equal to --save and empty:
    a fresh start. A folder of SAT or diffusers, or converted weights: a new run starts from them."""
    finetune: bool = False
    """Take only the weights of --load: a new run, with iteration, optimizer and data from the start."""
    save_interval: Annotated[int, Range(1, 1_000_000_000)] | None = None
    """Steps between checkpoints; unset: only at the end."""
    async_save: bool = False
    """Write checkpoints in the background."""
    keep_latest: Annotated[int, Range(1, 1_000_000)] | None = None
    """Keep this many checkpoints; unset: all."""
    overwrite: bool = False
    """Empty a --save folder that holds another run's checkpoints."""

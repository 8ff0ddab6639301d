"""Where the model that is sampled comes from: the one place that knows what `--load` may lead to."""

from collections.abc import Sequence
from pathlib import Path

import torch

from vidtron import checkpoint
from vidtron.config import cli
from vidtron.config.run import RunConfig
from vidtron.models import registry
from vidtron.parallel import Groups


def checkpoint_of(load: Path) -> Path:
    """The checkpoint that `--load` leads to.

    Raises:
        ValueError: there is none.
    """
    found = load if checkpoint.is_complete(load) else checkpoint.latest(load) if load.is_dir() else None
    if found is None:
        raise ValueError(f"--load {load}: no complete checkpoint; accepted: a run folder or an iter_* folder of one")
    return found


def configuration_of(load: Path) -> RunConfig:
    """The configuration of the run that wrote the checkpoint `--load` leads to. Raises ValueError."""
    return cli.load(checkpoint_of(load) / "config.yaml", registry.preset, registry.preset_names())


def averages_of(load: Path) -> list[str]:
    """Names of the averages of the weights beside them."""
    return checkpoint.averages_in(checkpoint_of(load))


def load_into(chunks: Sequence[torch.nn.Module], load: Path, ema: str | None, groups: Groups) -> None:
    """Fill this rank's bare chunks with the weights, or with the average named `ema`. All ranks call it together.

    Raises:
        CheckpointError: they are of another model.
    """
    if ema is None:
        checkpoint.load(checkpoint_of(load), chunks, None, None, groups)
    else:
        checkpoint.load_average(checkpoint_of(load), chunks, ema, groups)

"""Where the model that is sampled comes from: the one place that knows what `--load` may lead to."""

from collections.abc import Sequence
from pathlib import Path

import torch

from vidtron import checkpoint
from vidtron.config import cli
from vidtron.config.run import RunConfig
from vidtron.inference.config import SamplingConfig
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


def check(config: SamplingConfig) -> list[str]:
    """What is wrong with the choice of weights; one message each."""
    path = checkpoint_of(config.load)
    errors = checkpoint.base_errors(path, config.lora_base)
    averages = [] if config.ema is None else checkpoint.averages_in(path)
    if config.ema is not None and config.ema not in averages:
        errors.append(f"--ema {config.ema}: not in the checkpoint; accepted: {', '.join(averages) or 'none, no EMA'}")
    return errors


def load_into(chunks: Sequence[torch.nn.Module], config: SamplingConfig, groups: Groups) -> None:
    """Fill this rank's bare chunks with the weights, or with their average. All ranks call it together.

    Raises:
        CheckpointError: they are of another model.
    """
    path, base = checkpoint_of(config.load), config.lora_base
    if config.ema is None:
        checkpoint.load_with_base(path, chunks, None, None, groups, moved_to=base)
    else:
        checkpoint.load_average_with_base(path, chunks, config.ema, groups, moved_to=base)

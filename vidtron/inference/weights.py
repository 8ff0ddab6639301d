"""Where the model that is sampled comes from: a run's checkpoint, or weights in any format."""

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import torch

from vidtron import checkpoint
from vidtron.checkpoint import CheckpointError, ConversionError, Verification, WeightSource
from vidtron.checkpoint.formats import formats
from vidtron.checkpoint.formats.megatron import run_configuration
from vidtron.config import cli
from vidtron.config.errors import ConfigurationError
from vidtron.config.launcher import launched_rank
from vidtron.config.run import RunConfig
from vidtron.inference.config import SamplingConfig
from vidtron.models import registry
from vidtron.parallel import Groups
from vidtron.recipe.choices import choices

SAT_EMA = "ema"
"""What `--ema` calls the one set of averages that a SAT folder may have."""


def location(load: Path) -> Path:
    """The checkpoint that `--load` leads to: of a run folder its latest."""
    return checkpoint.resolve_checkpoint(load) or load


def configuration_of(config: SamplingConfig) -> RunConfig:
    """The configuration of the run that wrote `--load`; where none did, that of the preset that the weights are of.

    A diffusers pipeline brings its encoders. Half precision stays half: bf16.

    Raises:
        ValueError: there are no weights, or they are damaged or of no known network.
        ConfigurationError: files are missing or damaged, as far as can be told without reading the tensors.
    """
    _refuse_damage(config, partial(checkpoint.inspect, contents=False))
    path = _of_a_run(config.load)
    if path is not None:
        if config.model is not None:
            raise ValueError(f"--model {config.model}: {path} names its model itself; accepted: without --model")
        return cli.load(path / "config.yaml", registry.preset, registry.preset_names(), choices=choices())
    source = _open(config)
    if launched_rank() == 0:
        for warning in source.warnings:
            print(f"warning: {warning}", file=sys.stderr)
    run = run_configuration(source.model, source.network, source.sample)
    run.precision.bf16 = source.dtype(source.rows[0].ours) != torch.float32
    if source.format == "diffusers":
        if (config.load / "vae").is_dir():
            run.encoders.vae_path = config.load
        if (config.load / "text_encoder").is_dir():
            run.encoders.text_encoder_path = config.load
    return run


def check(config: SamplingConfig) -> list[str]:
    """Errors in the choice among a checkpoint's weights; one message each."""
    path, base = _of_a_run(config.load), config.lora_base
    if path is None:
        if base is None:
            return []
        return [f"--lora-base {base}: {config.load} does not hold adapters alone; accepted: without --lora-base"]
    try:
        errors = checkpoint.base_errors(path, base)
        averages = [] if config.ema is None else checkpoint.ema_names_in(path)
    except CheckpointError as error:
        return [f"--load: {line}" for line in str(error).splitlines()]
    if config.ema is not None and config.ema not in averages:
        errors.append(f"--ema {config.ema}: not in the checkpoint; accepted: {', '.join(averages) or 'none, no EMA'}")
    return errors


def verification(config: SamplingConfig, groups: Groups) -> AbstractContextManager[Verification | None]:
    """Begin the verification that `load_into` waits for; the ranks share the reading and may work on meanwhile."""
    folder = checkpoint.resolve_checkpoint(config.load) if config.verify_checkpoint else None
    return nullcontext() if folder is None else Verification(folder, rank=groups.rank, ranks=groups.world_size)


def await_verification(config: SamplingConfig, groups: Groups, verification: Verification | None) -> list[str]:
    """Wait for it, and verify the base of adapters; returns what the user should know. All ranks call it together.

    Raises:
        ConfigurationError: files are damaged; the same on all ranks.
    """
    if verification is None:
        return []
    inspections = [verification.shared_result(groups)]
    if not inspections[0].damage:
        base = checkpoint.base_folder(verification.folder, config.lora_base)
        inspections += [] if base is None else [checkpoint.shared_inspect(base, groups)]
    if errors := checkpoint.refusals(inspections):
        raise ConfigurationError(errors)
    return inspections[0].remarks(verification.folder)


def _refuse_damage(config: SamplingConfig, examine: Callable[[Path], checkpoint.Inspection]) -> None:
    """Raises ConfigurationError: files of the checkpoint are damaged."""
    folder = checkpoint.resolve_checkpoint(config.load) if config.verify_checkpoint else None
    if folder is not None and (errors := checkpoint.refusals([examine(folder)])):
        raise ConfigurationError(errors)


def load_into(chunks: Sequence[torch.nn.Module], config: SamplingConfig, groups: Groups) -> None:
    """Fill this rank's bare chunks with the weights, or with their average. All ranks call it together.

    Raises:
        CheckpointError, ConversionError: they are of another model.
    """
    path, base = _of_a_run(config.load), config.lora_base
    if path is None:
        checkpoint.load_weights(_open(config), chunks, groups)
    elif config.ema is None:
        checkpoint.load_with_base(path, chunks, None, None, groups, moved_to=base)
    else:
        checkpoint.load_ema_with_base(path, chunks, config.ema, groups, moved_to=base)


def _of_a_run(load: Path) -> Path | None:
    """The iter_* folder, if a run wrote it and not a conversion."""
    path = checkpoint.resolve_checkpoint(load)
    return None if path is None or checkpoint.holds_weights_only(path) else path


def _open(config: SamplingConfig) -> WeightSource:
    format = checkpoint.detect_format(config.load) if config.load.exists() else None
    if format is None:
        raise ValueError(
            f"--load {config.load}: no complete checkpoint; accepted: a run folder or an iter_* folder of one, or "
            f"weights in the format {', '.join(name for name in formats() if name != 'megatron')}"
        )
    if format == "sat" and config.ema not in (None, SAT_EMA):
        raise ConversionError(
            f"--ema {config.ema}: a folder of SAT has one set of averages at most; accepted: {SAT_EMA}"
        )
    return checkpoint.open_weights(
        config.load, format, model=config.model, ema=config.ema or False, trust_pickle=config.trust_pickle
    )

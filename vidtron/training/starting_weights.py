"""A new run that starts from given weights: of another format, without an optimizer, or with --finetune."""

from dataclasses import dataclass
from pathlib import Path

from vidtron import checkpoint
from vidtron.checkpoint import ConversionError, WeightSource
from vidtron.config.checkpoint import CheckpointConfig
from vidtron.config.run import RunConfig
from vidtron.models.foreign import changed_settings
from vidtron.parallel import Groups
from vidtron.training.assembly import TrainedModel


@dataclass(frozen=True)
class StartingWeights:
    """Where --load leads to, if not to a run that continues."""

    path: Path
    format: str
    of_a_run: bool = False
    """A checkpoint that a run could also go on from, perhaps of adapters alone."""

    def open(self, config: RunConfig) -> WeightSource:
        """For reading. Raises ConversionError: they are not of the run's network; the message tells how."""
        return checkpoint.open_weights(self.path, self.format, network=(config.model, config.network))


def weights_at(config: CheckpointConfig, path: Path | None) -> StartingWeights | None:
    """The weights that a new run starts from; None if it continues another, or starts from nothing.

    Args:
        config: the flags.
        path: the iter_* folder that `--load` leads to, if it does.
    """
    load = config.load
    if load is None:
        return None
    if path is None:
        format = checkpoint.detect_format(load)
        return None if format is None else StartingWeights(load, format)
    if checkpoint.holds_weights_only(path):
        return StartingWeights(path, "megatron")
    return StartingWeights(path, "megatron", of_a_run=True) if config.finetune else None


def weights_errors(config: RunConfig, weights: StartingWeights) -> list[str]:
    """Why the run cannot start from them."""
    lora_base = config.adaptation.lora_base
    if weights.of_a_run:
        return checkpoint.base_errors(weights.path, lora_base)
    if lora_base is not None:
        return [f"--lora-base {lora_base}: {weights.path} does not hold adapters alone; accepted: without --lora-base"]
    try:
        weights.open(config)
    except ConversionError as error:
        return str(error).splitlines()
    return []


def start_from(weights: StartingWeights, config: RunConfig, model: TrainedModel, groups: Groups) -> list[str]:
    """Load them into the model, and into the optimizer's fp32 copies; returns what the log should say.

    Called on all ranks.

    Raises:
        ConversionError, CheckpointError: they are not of the run's network.
    """
    if weights.of_a_run:
        checkpoint.load_start(weights.path, model.modules, groups, config.adaptation.lora_base)
        model.optimizer.reload_model_params()
        return [f"starting from the weights of {weights.path}"]
    source = weights.open(config)
    checkpoint.load_weights(source, model.modules, groups)
    model.optimizer.reload_model_params()
    remarks = [f"starting from the weights of {weights.path} ({weights.format})", *source.notes, *source.warnings]
    return remarks + [
        f"{name} is {ours} here and {theirs} in {weights.path}: outputs change slightly "
        f"(--{name.replace('_', '-')} {theirs} keeps it)"
        for name, theirs, ours in changed_settings(source.network, config.network, source.family.foreign)
    ]


def folder_errors(config: CheckpointConfig, weights: StartingWeights) -> list[str]:
    """Why the run cannot save where it is told to."""
    save = config.save
    kept = [] if save is None else checkpoint.completed(save)
    if config.overwrite or not kept or (kept == [weights.path] and not config.finetune):
        return []
    return [
        f"--save {save}: holds checkpoints of another run than the one that --load {config.load} starts; accepted: an "
        f"empty folder, --load {save} to continue that run, or --overwrite to delete it"
    ]

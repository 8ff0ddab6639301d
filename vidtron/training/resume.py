"""When a run is saved, and how one is continued."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vidtron import checkpoint
from vidtron.config.checkpoint import CheckpointConfig
from vidtron.config.errors import ConfigurationError
from vidtron.parallel import Groups
from vidtron.training.assembly import TrainedModel


@dataclass
class Progress:
    """How far a run is."""

    iteration: int = 0
    """Optimizer steps done."""
    consumed_samples: int = 0
    evaluation_due: bool = False
    """The run was stopped before or in the evaluation after its last step; it is made up for first of all."""


def find_checkpoint(load: Path | None) -> Path | None:
    """The checkpoint that `--load` leads to: the folder itself if it is one, else its latest complete one."""
    if load is None:
        return None
    return load if checkpoint.is_complete(load) else checkpoint.latest(load)


def data_errors(path: Path, data_state: dict[str, str]) -> list[str]:
    """One message for each part of data and encoders that is not what the checkpoint at `path` was trained on.

    Args:
        path: an iter_* folder.
        data_state: what they are now, or some of them (`DataRoom.state`).
    """
    reasons = {
        "--data-path": "other samples, another order or other frames of them than in the run of {path} (the shards, "
        "their weights, --bucket-config, --seed, or another flag that says which frames are taken has changed)",
    }
    saved = checkpoint.read_state(path)["data"]
    return [
        f"{flag}: {reasons.get(flag, 'not the encoder of the run of {path}').format(path=path)}; accepted: as in "
        f"{path / 'config.yaml'}"
        for flag, value in data_state.items()
        if saved.get(flag) != value
    ]


@dataclass(frozen=True)
class Restored:
    """Where the run of a checkpoint stood."""

    iteration: int
    consumed_samples: int
    global_batch_size: int
    evaluation_due: bool
    """It was stopped before or in an evaluation."""
    bad_samples: list[dict[str, Any]]
    """What `BadSamples.state` gave."""
    remarks: list[str]
    """What of the checkpoint and of this run did not meet, for the log."""


def restore(
    path: Path, model: TrainedModel, data_state: dict[str, str], groups: Groups, lora_base: Path | None = None
) -> Restored:
    """Load weights, their averages, optimizer and scheduler.

    Args:
        path: an iter_* folder.
        model: overwritten.
        data_state: what data and encoders are now (`DataRoom.state`).
        groups: the run's process groups.
        lora_base: `--lora-base`.

    Raises:
        ConfigurationError: data or encoders are not those of the checkpoint.
        CheckpointError: it does not have the tensors of this run.
    """
    errors = data_errors(path, data_state)
    if errors:
        raise ConfigurationError(errors)
    averages, stored = model.averages, checkpoint.averages_in(path)
    parts = {name: parts for name, parts in averages.parts().items() if name in stored}
    state = checkpoint.load_with_base(
        path, model.modules, model.optimizer, model.scheduler, groups, parts, moved_to=lora_base
    )
    averages.updates.update({name: state["ema_updates"][name] for name in parts})
    return Restored(
        state["iteration"],
        state["consumed_samples"],
        state["global_batch_size"],
        state.get("evaluation_due", False),  # older checkpoints do not say
        state["bad_samples"],
        [
            *[
                f"EMA {name}: not in {path}; it starts from the weights"
                for name in averages.names
                if name not in parts
            ],
            *[f"EMA {name}: in {path}, left out: this run does not keep it" for name in stored if name not in parts],
        ],
    )


class Saver:
    """Saves when it is time to, into the run folder if there is one."""

    def __init__(
        self,
        config: CheckpointConfig,
        groups: Groups,
        state: dict[str, Any],
        config_yaml: str,
        part: checkpoint.Part = checkpoint.everything,
    ) -> None:
        """
        Args:
            config: the flags.
            groups: the run's process groups.
            state: kept beside the weights: `data` (`DataRoom.state`), `global_batch_size` and what `part` leaves out.
            config_yaml: kept in each checkpoint.
            part: the weights to save.
        """
        self.interval = config.save_interval
        self.part = part
        self.state = state
        self.writer: checkpoint.CheckpointWriter | None = None
        if config.save is not None:
            self.writer = checkpoint.CheckpointWriter(
                config.save,
                groups,
                config_yaml=config_yaml,
                async_save=config.async_save,
                keep_latest=config.keep_latest,
            )

    def is_due(self, iteration: int, *, last: bool) -> bool:
        """Whether the run is saved after this step."""
        return self.writer is not None and (last or (self.interval is not None and iteration % self.interval == 0))

    def after_step(
        self,
        model: TrainedModel,
        progress: Progress,
        bad_samples: list[dict[str, Any]],
        *,
        last: bool,
    ) -> None:
        """Save if `--save-interval` says so or the run is about to leave; complete a save that is being written."""
        if self.writer is None:
            return
        self.writer.maybe_finalize()
        if not self.is_due(progress.iteration, last=last):
            return
        averages = model.averages
        state = {
            **self.state,
            **asdict(progress),
            "bad_samples": bad_samples,
            "ema_updates": dict(averages.updates),
        }
        with model.complete_weights():
            self.writer.save(
                progress.iteration,
                model.modules,
                model.optimizer,
                model.scheduler,
                state,
                averages.parts(),
                self.part,
            )

    def finish(self) -> None:
        """Wait until everything is on disk."""
        if self.writer is not None:
            self.writer.finalize()

    def abandon(self) -> None:
        """Drop a save that is being written in the background, for a run that ends in an error."""
        if self.writer is not None:
            self.writer.abandon()

"""When a run is saved, and how one is continued."""

from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from vidtron import checkpoint
from vidtron.config.checkpoint import CheckpointConfig
from vidtron.config.errors import ConfigurationError
from vidtron.parallel import Groups
from vidtron.training.assembly import TrainedModel
from vidtron.training.bad_samples import BadSample


@dataclass
class Progress:
    """How far a run is."""

    iteration: int = 0
    """Optimizer steps done."""
    consumed_samples: int = 0
    evaluation_due: bool = False
    """The run was stopped before or in the evaluation after its last step; it is made up for first of all."""


def likely_choice(config: CheckpointConfig) -> checkpoint.Choice:
    """The checkpoint that `--load` leads to as far as one process can tell at once: tensors' files go unread.

    When they are read, an older one may take its place (`checkpoint.Search`).
    """
    found = [] if config.load is None else checkpoint.candidates(config.load)
    examine = partial(checkpoint.inspect, contents=False) if config.verify_checkpoint else None
    return checkpoint.choose(found, examine, named=found == [config.load])


def base_damage(path: Path, lora_base: Path | None, examine: Callable[[Path], checkpoint.Inspection]) -> list[str]:
    """Errors for damaged base weights of the checkpoint at `path`, if it holds adapters alone."""
    base = checkpoint.base_folder(path, lora_base)
    return [] if base is None else checkpoint.refusals([examine(base)])


def data_errors(path: Path, data_state: dict[str, str]) -> list[str]:
    """One message for each part of data and encoders that is not what the checkpoint at `path` was trained on.

    Args:
        path: an iter_* folder.
        data_state: what they are now, or some of them (`RunData.state`).
    """
    reasons = {
        "--data-path": "other samples, another order or other frames of them than in the run of {path} (the shards, "
        "their weights, --bucket-config, --seed, or another flag that says which frames are taken has changed)",
    }
    saved = checkpoint.read_state(path).get("data")
    if not isinstance(saved, dict):
        raise checkpoint.UnreadableFileError(path, "no run has written it: its plain state does not tell the data")
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
        data_state: what data and encoders are now (`RunData.state`).
        groups: the run's process groups.
        lora_base: `--lora-base`.

    Raises:
        ConfigurationError: data or encoders are not those of the checkpoint.
        CheckpointError: it does not have the tensors of this run.
    """
    errors = data_errors(path, data_state)
    if errors:
        raise ConfigurationError(errors)
    averages, stored = model.averages, checkpoint.ema_names_in(path)
    parts = {name: parts for name, parts in averages.parts().items() if name in stored}
    state = checkpoint.load_with_base(
        path, model.modules, model.optimizer, model.scheduler, groups, parts, moved_to=lora_base
    )
    _check_state(path, state, parts)
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


def _check_state(path: Path, state: dict[str, Any], averages: Collection[str]) -> None:
    """Raises UnreadableFileError: an entry of the plain state is missing, or is none."""
    counts = {key: state.get(key) for key in ("iteration", "consumed_samples")}
    updates = state.get("ema_updates")
    counts |= {f"ema_updates {name}": updates.get(name) for name in averages} if isinstance(updates, dict) else {}
    wrong = [key for key, count in counts.items() if type(count) is not int or count < 0]
    wrong += [] if isinstance(updates, dict) else ["ema_updates"]
    batch, samples = state.get("global_batch_size"), state.get("bad_samples")
    wrong += [] if batch is None or (type(batch) is int and batch > 0) else ["global_batch_size"]
    names = {field.name for field in fields(BadSample)}
    if not isinstance(samples, list) or not all(
        isinstance(s, dict) and s.keys() == names and type(s["row"]) is int for s in samples
    ):
        wrong.append("bad_samples")
    if wrong:
        raise checkpoint.UnreadableFileError(path, f"damaged: its plain state is wrong in {', '.join(wrong)}")


class Saver:
    """Saves when it is time to, into the run folder if there is one."""

    def __init__(
        self,
        config: CheckpointConfig,
        groups: Groups,
        state: dict[str, Any],
        config_yaml: str,
        part: checkpoint.Part = checkpoint.everything,
        say: Callable[[str], None] = lambda message: None,
    ) -> None:
        """
        Args:
            config: the flags.
            groups: the run's process groups.
            state: kept beside the weights: `data` (`RunData.state`), `global_batch_size` and what `part` leaves out.
            config_yaml: kept in each checkpoint.
            part: the weights to save.
            say: is told what the user should know of a save.
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
                say=say,
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

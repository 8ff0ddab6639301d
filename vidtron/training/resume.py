"""When a run is saved, and how one is continued."""

from pathlib import Path
from typing import Any

from vidtron import checkpoint
from vidtron.config.checkpoint import CheckpointConfig
from vidtron.parallel import Groups
from vidtron.training.assembly import TrainedModel


class ResumeError(ValueError):
    """A checkpoint that does not belong to this run."""


def find_checkpoint(load: Path | None) -> Path | None:
    """The checkpoint that `--load` leads to: the folder itself if it is one, else its latest complete one."""
    if load is None:
        return None
    if load.name.startswith("iter_"):
        return load if checkpoint.is_complete(load) else None
    return checkpoint.latest(load)


def restore(path: Path, model: TrainedModel, data_state: dict[str, str], groups: Groups) -> dict[str, int]:
    """Load weights, optimizer and scheduler; gives `iteration` and `consumed_samples`.

    Args:
        path: an iter_* folder.
        model: overwritten.
        data_state: what data and encoders are now (`DataRoom.state`).
        groups: the run's process groups.

    Raises:
        ResumeError: data or encoders are not those of the checkpoint.
    """
    state = checkpoint.load(path, model.modules, model.optimizer, model.scheduler, groups)
    changed = sorted(flag for flag, value in state["data"].items() if data_state.get(flag) != value)
    if changed:
        reasons = {
            "--data-path": "the samples, their order or the frames taken of them are others (shards, --seed, "
            "--num-frames, --fps or --short-clip have changed)",
        }
        detail = "; ".join(f"{flag}: {reasons.get(flag, 'computes something else')}" for flag in changed)
        raise ResumeError(
            f"{path} belongs to a run with other data. {detail}. Accepted: the configuration in {path / 'config.yaml'}"
        )
    return {name: state[name] for name in ("iteration", "consumed_samples")}


class Saver:
    """Saves when it is time to."""

    def __init__(self, config: CheckpointConfig, groups: Groups, data_state: dict[str, str], config_yaml: str) -> None:
        """
        Args:
            config: the flags.
            groups: the run's process groups.
            data_state: kept beside the weights (`DataRoom.state`).
            config_yaml: kept in each checkpoint.
        """
        self.config = config
        self.groups = groups
        self.data_state = data_state
        self.config_yaml = config_yaml
        self.saved: int | None = None

    def after_step(self, model: TrainedModel, progress: Any, *, last: bool) -> None:
        """Save if `--save-interval` says so or the run is about to leave."""
        folder, interval = self.config.save, self.config.save_interval
        due = last or (interval is not None and progress.iteration % interval == 0)
        if folder is None or not due:
            return
        state = {
            "iteration": progress.iteration,
            "consumed_samples": progress.consumed_samples,
            "data": self.data_state,
        }
        with model.complete_weights():
            checkpoint.save(
                folder,
                progress.iteration,
                model.modules,
                model.optimizer,
                model.scheduler,
                state,
                self.groups,
                async_save=self.config.async_save,
            )

    def finish(self) -> None:
        """Wait until everything is on disk."""

"""The run folder: what a fresh or resumed run may find in it, and the files every run writes there."""

import json
import shutil
from pathlib import Path

from vidtron.checkpoint import clear_unfinished, completed, iteration_of
from vidtron.config.checkpoint import CheckpointConfig
from vidtron.config.storage import whole_file

METRICS = "metrics.jsonl"
SAMPLES = "samples"
CONFIG = "config.yaml"


def check_folders(config: CheckpointConfig, latest: Path | None) -> list[str]:
    """What is wrong with `--load` and `--save`.

    Args:
        config: the flags.
        latest: the checkpoint that `--load` leads to, if any.
    """
    errors = []
    save, load = config.save, config.load
    if save is not None and load is None and not config.overwrite and completed(save):
        errors.append(
            f"--save {save}: holds checkpoints of another run; accepted: an empty folder, --load {save} to continue "
            "that run, or --overwrite to delete it"
        )
    if load is not None and latest is None and load != save:
        errors.append(
            f"--load {load}: no complete checkpoint there; accepted: a run folder or one of its iter_* folders, a "
            "folder of SAT or diffusers (a --load equal to --save may be empty: a fresh start)"
        )
    if save is not None and load is not None and latest is not None and not config.overwrite:
        errors += _mixed_runs(save, load, latest)
    return errors


def _mixed_runs(save: Path, load: Path, latest: Path) -> list[str]:
    """A run folder's newest checkpoint is what the next `--load` finds; it must belong to this run."""
    kept = completed(save)
    if not kept:
        return []
    if latest.resolve().parent != save.resolve():
        return [
            f"--save {save}: holds checkpoints of another run than --load {load}; accepted: an empty folder, or "
            f"--load {save} to continue that run"
        ]
    later = [path.name for path in kept if iteration_of(path) > iteration_of(latest)]
    if not later:
        return []
    return [
        f"--load {load}: {save} holds later checkpoints ({', '.join(later)}), which the next resumption would take; "
        "accepted: another --save, or delete them first"
    ]


def prepare(folder: Path, *, overwrite: bool, iteration: int, config_yaml: str, evaluates_again: bool = False) -> None:
    """Make the folder ready for a run that starts after `iteration`. One rank calls this.

    What killed saves have left goes first: this run may need the room. Rows of `metrics.jsonl` and sampled videos
    after `iteration` belong to steps that will run again: they go; with `evaluates_again` those of the evaluation
    after it as well.
    """
    clear_unfinished(folder)
    if overwrite:
        for path in completed(folder):
            shutil.rmtree(path)
        for name in ("tensorboard", "wandb", SAMPLES):
            shutil.rmtree(folder / name, ignore_errors=True)
        (folder / METRICS).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / CONFIG) as part:
        part.write_text(config_yaml, encoding="utf-8")
    cut_metrics(folder / METRICS, iteration, evaluates_again=evaluates_again)
    for samples in (folder / SAMPLES).glob("iter_*"):
        if iteration_of(samples) > iteration - evaluates_again:
            shutil.rmtree(samples)


def cut_metrics(path: Path, iteration: int, *, evaluates_again: bool = False) -> None:
    """Keep the rows up to `iteration`; a row that a killed run left half-written goes too.

    Args:
        path: the file; there may be none.
        iteration: of the last rows to stay.
        evaluates_again: of this iteration only the row of the training step stays.
    """
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        last = iteration - (evaluates_again and row.get("kind") != "train")
        if row.get("iteration", 0) <= last:
            kept.append(line)
    with whole_file(path) as part:
        part.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

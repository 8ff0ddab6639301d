"""Where a run's numbers go: terminal or log, metrics.jsonl, tensorboard, Weights & Biases. One rank has a logger."""

import contextlib
import json
import sys
from pathlib import Path
from typing import Any, Protocol, TextIO

from vidtron.config.run import RunConfig
from vidtron.config.storage import StorageError, writing
from vidtron.inference.video_io import frame_grid, read_video
from vidtron.training.folder import METRICS
from vidtron.training.log_rows import Row, SampleRow, TrainRow

_ADVICE = "make room and continue the run with --load"


class Sink(Protocol):
    """Takes the rows of a run."""

    def write(self, row: Row) -> None:
        """Raises StorageError: it cannot be written."""

    def close(self) -> None:
        """Raises StorageError: what was logged last cannot be written."""


class MetricsFile:
    """metrics.jsonl: one object a step, readable while the run goes on.

    A row is in it whole or not at all, whatever the disk has room for.
    """

    def __init__(self, folder: Path) -> None:
        """Raises StorageError: it cannot be written."""
        self.path = folder / METRICS
        with writing(self.path, _ADVICE):
            self.file = self.path.open("ab", buffering=0)
        self._end = self.file.tell()

    def write(self, row: Row) -> None:
        """Raises StorageError: it cannot be written."""
        with writing(self.path, _ADVICE):
            content = json.dumps(row.content()).encode() + b"\n"
            try:
                while content:
                    content = content[self.file.write(content) :]
            except OSError:
                self.file.truncate(self._end)
                raise
            self._end = self.file.tell()

    def close(self) -> None:
        self.file.close()


class Tensorboard:
    """Event files; names are `kind/entry`."""

    def __init__(self, folder: Path, first_iteration: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Steps that will run again are hidden by purge_step.
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first_iteration)
        self.folder = folder

    def write(self, row: Row) -> None:
        if isinstance(row, SampleRow):  # its add_video needs a package that no longer is what it was
            frames_TCHW, _ = read_video(self.folder / row.file)
            with writing(self.folder / "tensorboard", _ADVICE):
                self.writer.add_image(_picture_name(row), frame_grid(frames_TCHW), row.iteration)
                self.writer.flush()
            return
        with writing(self.folder / "tensorboard", _ADVICE):  # what its own thread could not write comes up here
            for name, value in row.curves().items():
                self.writer.add_scalar(name, value, row.iteration)

    def close(self) -> None:
        """Raises StorageError: what was logged last cannot be written."""
        with writing(self.folder / "tensorboard", _ADVICE):
            self.writer.close()


class WeightsAndBiases:
    """A wandb run, grouped by experiment name; resumed runs continue in the same group."""

    def __init__(self, config: RunConfig, folder: Path | None) -> None:
        import wandb

        name = config.logging.wandb_exp_name or (folder.resolve().name if folder else config.model)
        self.run = wandb.init(
            project=config.logging.wandb_project,
            name=name,
            group=name,
            mode=config.logging.wandb_mode,
            dir=str(folder) if folder else None,
            config=_plain(config),
            reinit="finish_previous",
        )
        self.run.define_metric("*", step_metric="iteration")
        self.folder = folder

    def write(self, row: Row) -> None:
        content: dict[str, Any] = row.curves()
        if isinstance(row, SampleRow):
            import wandb

            assert self.folder is not None
            video = wandb.Video(str(self.folder / row.file), caption=row.prompt, format="mp4")
            content = {_picture_name(row): video}
        self.run.log({"iteration": row.iteration, **content})

    def close(self) -> None:
        self.run.finish()


class Terminal:
    """A progress bar on a terminal, plain lines in a log."""

    def __init__(self, train_iters: int, iteration: int, interval: int, stream: TextIO | None = None) -> None:
        """
        Args:
            train_iters: steps of the whole run.
            iteration: steps done already.
            interval: steps between lines.
            stream: unset: standard error for a bar, standard output for lines.
        """
        self.train_iters = train_iters
        self.interval = interval
        self.stream = stream
        self.bar: Any = _progress_bar(train_iters, iteration) if (stream or sys.stderr).isatty() else None

    def write(self, row: Row) -> None:
        if isinstance(row, TrainRow) and self.bar is not None:
            self.bar.update(row.iteration - self.bar.n)
            self.bar.set_postfix_str(f"loss {row.loss:.4f}", refresh=False)
        if not isinstance(row, TrainRow) or row.iteration % self.interval == 0:
            self.say(row.line(self.train_iters))

    def say(self, message: str) -> None:
        """A line above the bar, or in the log."""
        if self.bar is not None:
            self.bar.write(message)
        else:
            print(message, file=self.stream or sys.stdout, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


class Logger:
    """All sinks of a run. On ranks that do not log it swallows everything."""

    def __init__(self, config: RunConfig, iteration: int, *, active: bool) -> None:
        """
        Args:
            config: the run.
            iteration: steps done already.
            active: whether this rank logs.
        """
        self.terminal: Terminal | None = None
        self.sinks: list[Sink] = []
        if not active:
            return
        folder = config.checkpoint.save
        self.terminal = Terminal(config.training.train_iters, iteration, config.logging.log_interval)
        self.sinks.append(self.terminal)
        if folder is not None:
            self.sinks.append(MetricsFile(folder))
        if folder is not None and config.logging.tensorboard:
            try:
                self.sinks.append(Tensorboard(folder, iteration + 1))
            except ImportError:
                self.say("no tensorboard files: the tensorboard package is not installed")
        if config.logging.wandb_project is not None:
            self.sinks.append(WeightsAndBiases(config, folder))

    def write(self, row: Row) -> None:
        """Log a row.

        Raises:
            StorageError: one of the sinks cannot write; the others have.
        """
        failure: StorageError | None = None
        for sink in self.sinks:
            try:
                sink.write(row)
            except StorageError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def say(self, message: str) -> None:
        """Tell something on the terminal or in the log."""
        if self.terminal is not None:
            self.terminal.say(message)

    def close(self) -> None:
        """Finish all files.

        Raises:
            StorageError: one cannot be written.
        """
        with contextlib.ExitStack() as stack:  # all of them, also where one raises
            for sink in self.sinks:
                stack.callback(sink.close)
        self.sinks.clear()


def _picture_name(row: SampleRow) -> str:
    return f"sample/{row.number:04d}"


def _progress_bar(total: int, done: int) -> Any:
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm(total=total, initial=done, unit="step", dynamic_ncols=True)


def _plain(config: RunConfig) -> dict[str, Any]:
    """The configuration for wandb's table, in the form of config.yaml."""
    import yaml

    from vidtron.config.yaml_file import dump

    return yaml.safe_load(dump(config))

"""What every step over rows is: which columns it reads and adds, and how one row is measured."""

import dataclasses
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa

from vidtron.config.ranges import refusals
from vidtron.curation.table import ERROR, PATH_COLUMNS, Row

Measure = Callable[[Row], list[Row]]
Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class RowStep:
    """Base of the steps that treat each row for itself. The fields of a subclass are its flags."""

    name: ClassVar[str]
    """On the command line, and at the start of an error."""
    needs: ClassVar[tuple[str, ...]] = ("path",)
    """Columns of the input."""
    adds: ClassVar[Mapping[str, pa.DataType]]
    """Columns of the output; those of the input with the same name are replaced."""
    packages: ClassVar[Mapping[str, str]] = {}
    """Module -> package, of those that only curation uses."""

    def needed(self) -> tuple[str, ...]:
        """Columns of the input that these flags need."""
        return self.needs

    def errors(self, resuming: bool) -> list[str]:
        """Errors of the step that are known before a row is read: what is missing or impossible; one message each."""
        numbers = [refusal.message for refusal in refusals(self, f"{self.name} --")]
        return [*missing_packages(self.name, self.packages), *numbers]

    def schema(self, given: pa.Schema) -> pa.Schema:
        """Columns of the output for those of the input; `error` is last."""
        kept = [field for field in given if field.name not in (*self.adds, ERROR)]
        return pa.schema([*kept, *self.adds.items(), (ERROR, pa.string())])

    def open(self, worker: int) -> Measure:
        """Load what is needed, in the process that will use it.

        Returns:
            A function from a row to the rows it becomes (nearly always one), each with the added columns only. It
            may raise anything: the row then keeps its place, with the exception's text as its error.
        """
        raise NotImplementedError

    def arguments(self) -> dict[str, Any]:
        """The flags as JSON can hold them, by the names they have on the command line."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {f"--{name.replace('_', '-')}": _plain(value) for name, value in values.items()}

    def uses_gpu(self) -> bool:
        """Whether a worker of the step wants a GPU."""
        return False

    def runs_network(self) -> bool:
        """Whether each worker loads the weights of a network."""
        return False


@dataclass(frozen=True)
class ModelStep(RowStep):
    """Base of the steps that run a network."""

    device: Device = "auto"
    """auto: a GPU where there is one; worker n takes GPU n modulo their number."""

    def errors(self, resuming: bool) -> list[str]:
        """Also a GPU that is not there."""
        found = super().errors(resuming)
        if self.device == "cuda" and not _has_cuda():
            found.append(f"{self.name} --device cuda: there is no CUDA device; accepted: auto, cpu")
        return found

    def uses_gpu(self) -> bool:
        """Whether a worker of the step wants a GPU."""
        return self.device == "cuda" or (self.device == "auto" and _has_cuda())

    def runs_network(self) -> bool:
        """Each worker loads the weights."""
        return True

    def torch_device(self, worker: int) -> Any:
        """The device of one worker."""
        import torch

        return torch.device("cuda", worker % torch.cuda.device_count()) if self.uses_gpu() else torch.device("cpu")


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def missing_packages(step: str, packages: Mapping[str, str]) -> list[str]:
    """One message for each package that is not installed."""
    absent = [package for module, package in packages.items() if importlib.util.find_spec(module) is None]
    return [
        f"{step}: the package {name} is not installed; accepted: pip install {name}, or vidtron[curation]"
        for name in absent
    ]


def missing_files(flag: str, path: Path | None, model: str, files: Mapping[str, str]) -> list[str]:
    """Messages about a model's local files that are missing.

    Args:
        flag: step and flag that name the path.
        path: a folder, or a single file where `files` is empty; None: not given.
        model: what to get, in words.
        files: kind of file -> glob patterns in the folder, separated by spaces; one match of each kind is needed.
    """
    if path is None:
        what = f"a local folder with {', '.join(files)}" if files else "a local file"
        return [f"{flag}: missing; accepted: {what} of {model}. Nothing is downloaded"]
    if not files:
        return [] if path.is_file() else [f"{flag} {path}: no such file; accepted: {model}"]
    if not path.is_dir():
        return [f"{flag} {path}: no such folder; accepted: a local folder with {', '.join(files)} of {model}"]
    absent = [kind for kind, globs in files.items() if not any(any(path.glob(glob)) for glob in globs.split())]
    return [f"{flag} {path}: holds no {', no '.join(absent)}; it must be a folder of {model}"] if absent else []


def load_state(path: Path) -> dict[str, Any]:
    """Tensors of a .safetensors file, or of a torch file without code in it."""
    import torch

    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    state = torch.load(path, map_location="cpu", weights_only=True)
    return state.get("state_dict", state)


def rows_of(step: RowStep, measure: Measure, row: Row) -> list[Row]:
    """The rows that one row becomes. A row with an error from an earlier step is passed on as it is."""
    if row.get(ERROR):
        return [{**dict.fromkeys(step.adds), **row}]
    try:
        return [{**_blank(step, row), **values} for values in measure(row)]
    except Exception as error:  # a bad file makes libraries raise anything; the row tells it
        # Without the path that some errors name, equal reasons can be counted.
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return [failed(step, row, reason or type(error).__name__)]


def failed(step: RowStep, row: Row, reason: str) -> Row:
    """The row of a file that could not be measured."""
    return {**_blank(step, row), ERROR: f"{step.name}: {' '.join(reason.split())}"}


def _blank(step: RowStep, row: Row) -> Row:
    """The row before the step has said anything; what an earlier run of the step has said is not kept."""
    unsaid = [name for name in step.adds if name not in PATH_COLUMNS]
    return {**dict.fromkeys(step.adds), **row, **dict.fromkeys(unsaid), ERROR: None}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value

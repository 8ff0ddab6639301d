"""What the formats have in common: weights read and written tensor by tensor, under vidtron's names."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor

from vidtron.checkpoint.errors import UnreadableFileError
from vidtron.checkpoint.tensor_files import TensorSpec
from vidtron.checkpoint.torch_files import load_torch_file
from vidtron.config.network import NetworkConfig
from vidtron.models import registry
from vidtron.models.family import Family
from vidtron.models.foreign import ForeignModel, SampleSize
from vidtron.models.layers.checkpoint_rules import Row

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
EXTRAS_FILE = "sat_extras.pt"


class ConversionError(ValueError):
    """A checkpoint cannot be read, or not be converted as asked."""


@dataclass
class Extras:
    """Content of a SAT file besides the network's weights, kept so that it can be written as it was.

    Position tables are made again when a SAT file is written; what would come out otherwise is kept.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    """Tensors that cannot be made again."""
    dtypes: dict[str, str] = field(default_factory=dict)
    """Types of tables, where they are not fp32: name -> key of DTYPES."""
    sample: tuple[int, int, int] | None = None
    """Frames, latent height and latent width of the tables."""

    def save(self, folder: Path) -> None:
        """Write into a folder, if there is anything to keep."""
        if self.tensors or self.dtypes or self.sample:
            torch.save(vars(self), folder / EXTRAS_FILE)

    @classmethod
    def load(cls, folder: Path) -> "Extras":
        """Read the extras of a folder; empty without the file. Raises ConversionError: damaged, or could run code."""
        path = folder / EXTRAS_FILE
        if not path.is_file():
            return cls()
        try:
            extras = cls(**load_torch_file(path))
            _check_extras(extras)
        except (TypeError, ValueError) as error:  # UnreadableFileError is one
            told = str(error) if isinstance(error, UnreadableFileError) else f"{path}: damaged: {error}"
            raise ConversionError(told) from error
        return extras


def _check_extras(extras: Extras) -> None:
    """Raises TypeError: an entry is of another kind than it should be."""
    tensors, dtypes, sample = extras.tensors, extras.dtypes, extras.sample
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in tensors.items()
    ):
        raise TypeError("`tensors` holds something else")
    if not isinstance(dtypes, dict) or not all(
        isinstance(name, str) and dtype in DTYPES for name, dtype in dtypes.items()
    ):
        raise TypeError("`dtypes` holds something else")
    if sample is not None and not (
        isinstance(sample, tuple) and len(sample) == 3 and all(type(n) is int and 0 < n <= 1 << 16 for n in sample)
    ):
        raise TypeError("`sample` is not three sizes")


Preset = tuple[str, NetworkConfig]
"""Name of a preset, and a network of its kind, which may differ from it."""


@dataclass(frozen=True)
class Reading:
    """Options for reading weights."""

    ema: bool | str = False
    """The averages of the weights instead of them; a name where a checkpoint has several."""
    fp32: bool = False
    """Take the fp32 weights of a bf16 run's optimizer where there are any."""
    trust_pickle: bool = False
    """Open `.pt` files that need more than tensors and plain values."""


@dataclass(frozen=True)
class Content:
    """A network's weights before they are written."""

    model: str
    """The preset whose kind of network it is."""
    network: NetworkConfig
    specs: Mapping[str, TensorSpec]
    """Our name -> shape and type."""
    sample: SampleSize
    """The clips that they are for."""
    extras: Extras = field(default_factory=Extras)
    """What a file that they come from held besides."""


class WeightSource(ABC):
    """A network's weights somewhere on disk.

    Opening one finds out the network and checks that its tensors are there in their shapes; `read` then gives them one
    by one, as views of mapped files where that is possible.
    """

    format: str
    path: Path
    model: str
    """The preset whose kind of network it is."""
    network: NetworkConfig
    sample: SampleSize
    """The clips that the weights are for."""
    extras: Extras
    notes: list[str]
    """What the user should know."""
    warnings: list[str]
    """What may be wrong: the network was guessed from the tensors, ..."""
    adapter_shapes: Mapping[str, tuple[int, ...]] = MappingProxyType({})
    """Tensors of LoRA adapters that stand beside the weights, by the format's names."""

    @property
    def family(self) -> Family:
        """The model family that builds the network."""
        return registry.family_of(self.model)

    @property
    def foreign(self) -> ForeignModel | None:
        """How its family's networks stand in the format; None in our own."""
        return self.family.foreign.get(self.format)

    @property
    def places(self) -> list[Path]:
        """Every file or folder that is read."""
        return [self.path]

    @property
    def rows(self) -> list[Row]:
        """The table of the network's tensors: our names, and theirs in the format."""
        return self.family.rows(self.network)

    @abstractmethod
    def parts(self, ours: str) -> dict[str, Tensor]:
        """The tensors of the format that hold our tensor: their name -> tensor, whole."""

    @abstractmethod
    def rule_row(self, ours: str) -> Row:
        """The format's row of our tensor."""

    @abstractmethod
    def dtype(self, ours: str) -> torch.dtype:
        """The type of our tensor, without reading it."""

    def read(self, ours: str) -> Tensor:
        """The whole tensor of the name that vidtron gives it."""
        return self.rule_row(ours).rule.to_ours(list(self.parts(ours).values()), self.network)


class WeightTarget(ABC):
    """Writes a network's weights in one format, tensor by tensor, into an empty folder."""

    @abstractmethod
    def write(self, ours: str, tensor: Tensor) -> None:
        """Write one whole tensor, under vidtron's name of it; each is written once, in any order."""

    @abstractmethod
    def finish(self) -> None:
        """Complete the files, after the last tensor."""


def with_settings(network: NetworkConfig, settings: Mapping[str, object]) -> Any:
    """The network with some of its fields changed."""
    return replace(cast(Any, network), **settings)


def first_line(error: BaseException) -> str:
    """First line of an error's message; the name of its class if it has none."""
    return next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)


def same_dtype(parts: Mapping[str, torch.dtype]) -> torch.dtype:
    """The one type of several tensors. Raises ConversionError naming them if they differ."""
    if len(set(parts.values())) > 1:
        raise ConversionError("types differ: " + ", ".join(f"{name} {dtype}" for name, dtype in parts.items()))
    return next(iter(parts.values()))


def check_floating(dtypes: Iterable[tuple[str, torch.dtype]]) -> list[str]:
    """A message for each weight of a type that is not fp32, bf16 or fp16."""
    legal = set(DTYPES.values())
    return [f"{name}: {dtype}; accepted: {', '.join(DTYPES)}" for name, dtype in dtypes if dtype not in legal]


def refuse(path: Path, count: int, lines: Sequence[str], advice: str = "") -> None:
    """Raise one error about `count` tensors with these lines, if there are any."""
    if count:
        tensors = "1 tensor does" if count == 1 else f"{count:,} tensors do"
        raise ConversionError(f"{path}: {tensors} not fit{advice}\n" + "\n".join(lines))

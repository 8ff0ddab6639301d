"""What the formats have in common: weights read and written tensor by tensor, under vidtron's names."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from vidtron.models.cogvideox.checkpoint_names import our_rows
from vidtron.models.cogvideox.checkpoint_tables import SampleSize
from vidtron.models.cogvideox.config import CogVideoXConfig
from vidtron.models.layers.checkpoint_rules import Row

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
EXTRAS_FILE = "sat_extras.pt"


class ConversionError(ValueError):
    """A checkpoint cannot be read, or not be converted as asked."""


@dataclass
class Extras:
    """What a SAT file holds besides the network's weights, kept so that it can be written as it was.

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
        """Of a folder; empty without the file.

        Raises:
            ConversionError: the file is damaged.
        """
        path = folder / EXTRAS_FILE
        if not path.is_file():
            return cls()
        try:
            extras = cls(**torch.load(path, weights_only=True))
            extras._check()
        except Exception as error:  # damaged pickles raise nearly everything
            raise ConversionError(f"{path}: truncated or damaged: {first_line(error)}") from error
        return extras

    def _check(self) -> None:
        """Raises ValueError: something is of another type than it is written with."""
        legal = (
            all(isinstance(name, str) and isinstance(t, Tensor) for name, t in self.tensors.items())
            and all(isinstance(name, str) and key in DTYPES for name, key in self.dtypes.items())
            and (
                self.sample is None
                or (len(self.sample) == 3 and all(type(n) is int and 0 < n <= 1 << 16 for n in self.sample))
            )
        )
        if not legal:
            raise ValueError("not what vidtron writes")


class WeightSource(ABC):
    """A network's weights somewhere on disk.

    Opening one finds out the network and checks that its tensors are there in their shapes; `read` then gives them one
    by one, as views of mapped files where that is possible.
    """

    format: str
    path: Path
    model: str
    """The preset whose kind of network it is."""
    network: CogVideoXConfig
    sample: SampleSize
    """The size that the format's position tables are for."""
    extras: Extras
    notes: list[str]
    """What the user should know."""
    warnings: list[str]
    """What may be wrong: the network was guessed from the tensors, ..."""
    adapter_shapes: Mapping[str, tuple[int, ...]] = MappingProxyType({})
    """Tensors of LoRA adapters that stand beside the weights, by the format's names."""

    @property
    def places(self) -> list[Path]:
        """All that is read."""
        return [self.path]

    @property
    def rows(self) -> list[Row]:
        """Our tensors."""
        return our_rows(self.network)

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
        """Our tensor, whole."""
        return self.rule_row(ours).rule.to_ours(list(self.parts(ours).values()), self.network)


class WeightTarget(ABC):
    """Writes a network's weights in one format, tensor by tensor, into an empty folder."""

    @abstractmethod
    def write(self, ours: str, tensor: Tensor) -> None:
        """One of our tensors, whole; each once, in any order."""

    @abstractmethod
    def finish(self) -> None:
        """Complete the files."""


def first_line(error: BaseException) -> str:
    """What an error says first, or its kind if it says nothing."""
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

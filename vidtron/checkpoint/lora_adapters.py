"""Adapters (LoRA) of a whole network in memory, and what their file formats share."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from vidtron.checkpoint.engine import CheckpointError
from vidtron.config.storage import whole_file, writing
from vidtron.models.cogvideox.lora_names import TARGETS

BY_OURS = {target.ours: target for target in TARGETS}
_OURS = re.compile(r"decoder\.layers\.(\d+)\.(.+)")


@dataclass(frozen=True)
class Adapter:
    """One adapter: W x becomes W x + alpha / rank * B A x."""

    A: Tensor
    """[rank, in]."""
    B: Tensor
    """[out, rank]."""
    alpha: float

    @property
    def rank(self) -> int:
        return self.A.shape[0]

    @property
    def scale(self) -> float:
        """What the product is multiplied by."""
        return self.alpha / self.rank

    def with_alpha(self, alpha: float) -> "Adapter":
        """The same map with another alpha: B takes the difference. Exact where that is a power of two."""
        if alpha == self.alpha:
            return self
        return replace(self, B=(self.B.double() * (self.alpha / alpha)).to(self.B.dtype), alpha=alpha)


Adapters = dict[str, Adapter]
"""`decoder.layers.I.` and a `Target.ours` -> the adapter there."""


def cast(adapters: Adapters, dtype: torch.dtype) -> Adapters:
    """The same adapters in another dtype."""
    return {name: replace(a, A=a.A.to(dtype), B=a.B.to(dtype)) for name, a in adapters.items()}


def paired(halves: Mapping[tuple[str, str], Tensor], alpha_of: Callable[[str, int], float], path: Path) -> Adapters:
    """Adapters from their halves.

    Args:
        halves: (our name, "A" or "B") -> tensor.
        alpha_of: (our name, rank) -> alpha.
        path: named in errors.

    Raises:
        CheckpointError: a half is missing, or two do not fit each other.
    """
    names = sorted({name for name, _ in halves}, key=_place)
    lonely = [f"{name}.{half}" for name in names for half in "AB" if (name, half) not in halves]
    if lonely:
        raise CheckpointError(f"{path}: incomplete adapters; missing: {', '.join(lonely)}")
    adapters = {}
    for name in names:
        a, b = halves[name, "A"], halves[name, "B"]
        if a.dim() != 2 or b.dim() != 2 or a.shape[0] != b.shape[1]:
            raise CheckpointError(
                f"{path}: {name}: A of shape {list(a.shape)} and B of {list(b.shape)}; accepted: [rank, in] and "
                "[out, rank]"
            )
        adapters[name] = Adapter(a, b, alpha_of(name, a.shape[0]))
    return adapters


def refuse_unknown(unknown: list[str], path: Path) -> None:
    if unknown:
        listed = ", ".join(target.diffusers for target in TARGETS)
        raise CheckpointError(
            f"{path}: {len(unknown)} tensors that are no adapters of this network: {', '.join(unknown)}; accepted: "
            f"LoRA pairs on {listed}"
        )


def split(name: str) -> tuple[int, str]:
    """Our name of an adapter -> its layer and its `Target.ours`.

    Raises:
        CheckpointError: there is no such adapter.
    """
    match = _OURS.fullmatch(name)
    if match is None or match[2] not in BY_OURS:
        raise CheckpointError(f"{name}: no name of an adapter")
    return int(match[1]), match[2]


def _place(name: str) -> tuple[int, int]:
    layer, ours = split(name)
    return layer, list(BY_OURS).index(ours)


def diffusers_module(name: str) -> str:
    """Our name of an adapter -> the module in diffusers' network."""
    layer, ours = split(name)
    return f"transformer_blocks.{layer}.{BY_OURS[ours].diffusers}"


def write_file(file: Path, overwrite: bool, write: Callable[[Path], object]) -> None:
    """Write beside and rename: an interrupted file never looks complete.

    Raises:
        CheckpointError: the file exists.
        StorageError: it cannot be written; nothing is left of it.
    """
    if file.exists() and not overwrite:
        raise CheckpointError(f"--save {file}: exists; accepted: another path, or --overwrite")
    with writing(file, "make room there"), whole_file(file) as part:
        write(part)

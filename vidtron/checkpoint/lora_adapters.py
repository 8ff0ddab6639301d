"""Adapters (LoRA) of a whole network in memory, and what their file formats share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidtron.checkpoint.errors import CheckpointError
from vidtron.checkpoint.lora_names import split
from vidtron.config.lora import AdaptationConfig
from vidtron.config.storage import whole_file, writing
from vidtron.models.family import Family
from vidtron.models.lora_targets import adapter_names


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
        """Factor on the product B A: alpha / rank."""
        return self.alpha / self.rank

    def with_alpha(self, alpha: float) -> "Adapter":
        """An equal adapter with another alpha: B is rescaled, exactly where the ratio is a power of two."""
        if alpha == self.alpha:
            return self
        return replace(self, B=(self.B.double() * (self.alpha / alpha)).to(self.B.dtype), alpha=alpha)


Adapters = dict[str, Adapter]
"""`decoder.layers.I.` and a `LoraTarget.ours` -> the adapter there."""


def cast(adapters: Adapters, dtype: torch.dtype) -> Adapters:
    """The adapters in another dtype."""
    return {name: replace(a, A=a.A.to(dtype), B=a.B.to(dtype)) for name, a in adapters.items()}


def paired(
    halves: Mapping[tuple[str, str], Tensor], alpha_of: Callable[[str, int], float], path: Path, family: Family
) -> Adapters:
    """Adapters from their halves.

    Args:
        halves: (our name, "A" or "B") -> tensor.
        alpha_of: (our name, rank) -> alpha.
        path: named in errors.
        family: of the network; its targets give the order within a layer.

    Raises:
        CheckpointError: a half is missing, or two do not fit each other, or the family has no such adapters.
    """
    order = {target.ours: number for number, target in enumerate(family.lora_targets)}
    places = {name: split(name) for name, _ in halves}
    unknown = [name for name, (_, ours) in places.items() if ours not in order]
    if unknown:
        raise CheckpointError(
            f"{path}: {len(unknown)} adapters that this family of models has not: {', '.join(unknown)}; accepted: "
            f"{', '.join(order) or 'none'} of a layer"
        )
    names = sorted(places, key=lambda name: (places[name][0], order[places[name][1]]))
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


def flags_of(adapters: Mapping[str, Adapter], family: Family, network: Any) -> AdaptationConfig | None:
    """The flags of a network that has these adapters; None if its layers differ in them.

    Args:
        adapters: of the whole network.
        family: of the network.
        network: its configuration.
    """
    kinds = {(a.rank, a.alpha) for a in adapters.values()}
    present = {split(name)[1] for name in adapters}
    targets = [target for target in family.lora_targets if target.ours in present]
    if len(kinds) != 1 or set(adapter_names(family.rows(network), targets)) != set(adapters):
        return None
    ((rank, alpha),) = kinds
    return AdaptationConfig(lora_rank=rank, lora_alpha=alpha, lora_target_modules=[target.flag for target in targets])


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

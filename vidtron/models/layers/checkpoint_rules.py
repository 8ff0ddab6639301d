"""How a weight's layout in another format becomes ours, and back.

A model's `checkpoint_names.py` is a table of `Row`s; both directions of a conversion come from it. All tensors are
whole, not split over ranks.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


class Rule(Protocol):
    """Two inverse functions; `network` is the model's configuration."""

    def to_ours(self, theirs: Tensor, network: Any) -> Tensor: ...
    def to_theirs(self, ours: Tensor, network: Any) -> Tensor: ...


@dataclass(frozen=True)
class Same:
    """The tensor as it is."""

    def to_ours(self, theirs: Tensor, network: Any) -> Tensor:
        return theirs

    def to_theirs(self, ours: Tensor, network: Any) -> Tensor:
        return ours


@dataclass(frozen=True)
class QkvPerHead:
    """Three contiguous thirds [q; k; v] of rows <-> megatron-core's rows, [q, k, v] of each head in turn."""

    def to_ours(self, theirs: Tensor, network: Any) -> Tensor:
        return theirs.unflatten(0, (3, network.num_attention_heads, -1)).transpose(0, 1).flatten(0, 2)

    def to_theirs(self, ours: Tensor, network: Any) -> Tensor:
        return ours.unflatten(0, (network.num_attention_heads, 3, -1)).transpose(0, 1).flatten(0, 2)


@dataclass(frozen=True)
class PatchConvolution:
    """A 2D convolution's weight [D, C, p, p] <-> a linear layer's [D, C p p]; with frames in a patch it is linear."""

    def to_ours(self, theirs: Tensor, network: Any) -> Tensor:
        return theirs.flatten(1)

    def to_theirs(self, ours: Tensor, network: Any) -> Tensor:
        if network.patch_size_t > 1:
            return ours
        return ours.unflatten(1, (network.in_channels, network.patch_size, network.patch_size))


@dataclass(frozen=True)
class LeadingOne:
    """[1, ...] <-> [...]."""

    def to_ours(self, theirs: Tensor, network: Any) -> Tensor:
        return theirs[0]

    def to_theirs(self, ours: Tensor, network: Any) -> Tensor:
        return ours[None]


@dataclass(frozen=True)
class Row:
    """One tensor's name in our model and in another format; `*` stands for a layer's number."""

    ours: str
    theirs: str
    rule: Rule

    def of_layer(self, layer: int) -> "Row":
        """The row with the layer's number filled in."""
        return Row(self.ours.replace("*", str(layer)), self.theirs.replace("*", str(layer)), self.rule)


def expand(rows: Iterable[Row], layers: int) -> list[Row]:
    """Rows without wildcards, for a model of `layers` layers."""
    return [row.of_layer(layer) for row in rows for layer in (range(layers) if "*" in row.ours else range(1))]


def to_ours(rows: Iterable[Row], state: Mapping[str, Tensor], network: Any) -> dict[str, Tensor]:
    """Our state from theirs.

    Raises:
        KeyError: tensors of the table that `state` lacks, or that it has beyond the table, all of them named.
    """
    rows = list(rows)
    missing = [row.theirs for row in rows if row.theirs not in state]
    unknown = sorted(set(state) - {row.theirs for row in rows})
    if missing or unknown:
        raise KeyError(f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}")
    return {row.ours: row.rule.to_ours(state[row.theirs], network).contiguous() for row in rows}

"""How a weight's layout in another format becomes ours, and back.

A model's `checkpoint_names.py` is a table of `Row`s; both directions of a conversion come from it. All tensors are
whole unless a function says that they are split over model-parallel ranks.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from vidtron.config.network import NetworkConfig

Shape = tuple[int, ...]


class Rule(Protocol):
    """Two inverse functions between one tensor of ours and one or several of theirs; `network` is the model's
    configuration."""

    def to_ours(self, theirs: Sequence[Tensor], network: NetworkConfig) -> Tensor: ...
    def to_theirs(self, ours: Tensor, network: NetworkConfig) -> tuple[Tensor, ...]: ...


@dataclass(frozen=True)
class Same:
    """Rule: the tensor is the same in both formats."""

    def to_ours(self, theirs: Sequence[Tensor], network: NetworkConfig) -> Tensor:
        return theirs[0]

    def to_theirs(self, ours: Tensor, network: NetworkConfig) -> tuple[Tensor, ...]:
        return (ours,)


@dataclass(frozen=True)
class QkvThirds:
    """Three contiguous thirds [q; k; v] of rows <-> megatron-core's rows, [q, k, v] of each head in turn."""

    def to_ours(self, theirs: Sequence[Tensor], network: NetworkConfig) -> Tensor:
        return theirs[0].unflatten(0, (3, network.num_attention_heads, -1)).transpose(0, 1).flatten(0, 2)

    def to_theirs(self, ours: Tensor, network: NetworkConfig) -> tuple[Tensor, ...]:
        return (ours.unflatten(0, (network.num_attention_heads, 3, -1)).transpose(0, 1).flatten(0, 2),)


@dataclass(frozen=True)
class QkvSeparate:
    """Three tensors q, k and v <-> megatron-core's rows, [q, k, v] of each head in turn."""

    def to_ours(self, theirs: Sequence[Tensor], network: NetworkConfig) -> Tensor:
        heads = [tensor.unflatten(0, (network.num_attention_heads, -1)) for tensor in theirs]
        return torch.stack(heads, dim=1).flatten(0, 2)

    def to_theirs(self, ours: Tensor, network: NetworkConfig) -> tuple[Tensor, ...]:
        return tuple(x.flatten(0, 1) for x in ours.unflatten(0, (network.num_attention_heads, 3, -1)).unbind(1))


@dataclass(frozen=True)
class Blocks:
    """Equal blocks of rows of one tensor <-> several tensors, each with the blocks whose numbers it lists."""

    parts: tuple[tuple[int, ...], ...]

    def to_ours(self, theirs: Sequence[Tensor], network: NetworkConfig) -> Tensor:
        blocks: dict[int, Tensor] = {}
        for tensor, numbers in zip(theirs, self.parts, strict=True):
            blocks.update(zip(numbers, tensor.chunk(len(numbers)), strict=True))
        return torch.cat([blocks[number] for number in sorted(blocks)])

    def to_theirs(self, ours: Tensor, network: NetworkConfig) -> tuple[Tensor, ...]:
        blocks = ours.chunk(sum(map(len, self.parts)))
        return tuple(torch.cat([blocks[number] for number in numbers]) for numbers in self.parts)


@dataclass(frozen=True)
class PatchConvolution:
    """A 2D convolution's weight [D, C, p, p] <-> a linear layer's [D, C p p]; with frames in a patch it is linear."""

    def to_ours(self, theirs: Sequence[Tensor], network: Any) -> Tensor:
        return theirs[0].flatten(1)

    def to_theirs(self, ours: Tensor, network: Any) -> tuple[Tensor, ...]:
        if network.patch_size_t > 1:
            return (ours,)
        return (ours.unflatten(1, (network.in_channels, network.patch_size, network.patch_size)),)


@dataclass(frozen=True)
class LeadingOne:
    """Rule: their tensor has a leading dimension of 1, [1, ...] <-> [...]."""

    def to_ours(self, theirs: Sequence[Tensor], network: NetworkConfig) -> Tensor:
        return theirs[0][0]

    def to_theirs(self, ours: Tensor, network: NetworkConfig) -> tuple[Tensor, ...]:
        return (ours[None],)


class RankSplit(Protocol):
    """How the model-parallel ranks of another format divide one tensor."""

    def join(self, parts: Sequence[Tensor]) -> Tensor: ...
    def split(self, whole: Tensor, ranks: int) -> tuple[Tensor, ...]: ...


@dataclass(frozen=True)
class OnEveryRank:
    """Every rank has the whole tensor."""

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """One copy of the whole tensor. Raises ValueError: the ranks' copies differ."""
        if not all(bits_equal(parts[0], part) for part in parts[1:]):
            raise ValueError("the copies of the model-parallel ranks differ")
        return parts[0]

    def split(self, whole: Tensor, ranks: int) -> tuple[Tensor, ...]:
        return (whole,) * ranks


@dataclass(frozen=True)
class SplitAlong:
    """Contiguous parts along one dimension, in the order of the ranks.

    `sections`: the dimension holds so many sections, of which each rank has its part (the thirds of q, k and v).
    """

    dim: int
    sections: int = 1

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        if len(parts) == 1:
            return parts[0]
        return torch.cat([part for group in zip(*map(self._cut, parts), strict=True) for part in group], self.dim)

    def split(self, whole: Tensor, ranks: int) -> tuple[Tensor, ...]:
        """The parts of a whole tensor, one per rank. Raises ValueError: the dimension does not divide."""
        if whole.shape[self.dim] % (self.sections * ranks):
            raise ValueError(f"{whole.shape[self.dim]} rows or columns do not divide by {ranks} ranks")
        groups = [section.chunk(ranks, self.dim) for section in self._cut(whole)]
        return tuple(torch.cat(parts, self.dim) if len(parts) > 1 else parts[0] for parts in zip(*groups, strict=True))

    def _cut(self, tensor: Tensor) -> Sequence[Tensor]:
        return tensor.chunk(self.sections, self.dim)


@dataclass(frozen=True)
class Row:
    """One tensor of ours and the tensors that hold it in another format; `*` stands for a layer's number."""

    ours: str
    theirs: tuple[str, ...]
    rule: Rule
    shape: tuple[str, ...] = ()
    """Of ours: products like `3D`, in letters that the model's table gives sizes to."""
    ranks: RankSplit = field(default_factory=OnEveryRank)
    """How model-parallel ranks share each of theirs."""
    learned: bool = True
    """False: a buffer, stored with the weights and never trained."""

    def of_layer(self, layer: int) -> "Row":
        """This row with the layer's number filled in."""
        number = str(layer)
        theirs = tuple(name.replace("*", number) for name in self.theirs)
        return replace(self, ours=self.ours.replace("*", number), theirs=theirs)

    def our_shape(self, sizes: Mapping[str, int]) -> Shape:
        """Shape of our tensor where the letters have these sizes."""
        return tuple(math.prod(sizes[f] if f in sizes else int(f) for f in _factors(dim)) for dim in self.shape)

    def their_shapes(self, sizes: Mapping[str, int], network: NetworkConfig) -> tuple[Shape, ...]:
        """Shapes of their tensors, whole."""
        ours = torch.empty(self.our_shape(sizes), device="meta")
        return tuple(tuple(tensor.shape) for tensor in self.rule.to_theirs(ours, network))


def _factors(dim: str) -> list[str]:
    """Factors of a dimension: `12D` -> 12, D."""
    digits = dim.rstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    return [part for part in (digits, *dim[len(digits) :]) if part]


def expand(rows: Iterable[Row], layers: int) -> list[Row]:
    """Rows without wildcards, for a model of `layers` layers."""
    return [row.of_layer(layer) for row in rows for layer in (range(layers) if "*" in row.ours else range(1))]


def weight_sizes(rows: Collection[Row], sizes: Mapping[str, int]) -> dict[str, int]:
    """Number of elements of each of our tensors, by name.

    Args:
        rows: the table, expanded.
        sizes: what the letters of the table's shapes stand for.
    """
    elements: dict[tuple[str, ...], int] = {}
    for row in rows:  # layers are alike
        if row.shape not in elements:
            elements[row.shape] = math.prod(row.our_shape(sizes))
    return {row.ours: elements[row.shape] for row in rows}


def differences(
    rows: Iterable[Row],
    found: Mapping[str, Shape],
    sizes: Mapping[str, int],
    network: NetworkConfig,
    ignored: Collection[str],
) -> list[str]:
    """One message for each tensor that is missing, unknown or of another shape than the table's.

    Args:
        rows: the table, expanded.
        found: name -> shape of their tensors, whole.
        sizes: what the letters of the table's shapes stand for.
        network: the model's configuration.
        ignored: names that may be there without being in the table.
    """
    wanted: dict[str, Shape] = {}
    for row in rows:
        wanted.update(zip(row.theirs, row.their_shapes(sizes, network), strict=True))
    messages = [f"{name}: missing" for name in wanted if name not in found]
    messages += [f"{name}: unknown" for name in sorted(found) if name not in wanted and name not in ignored]
    messages += [
        f"{name}: shape {list(found[name])}; the network has {list(shape)}"
        for name, shape in wanted.items()
        if name in found and tuple(found[name]) != shape
    ]
    return messages


def to_ours(rows: Iterable[Row], state: Mapping[str, Tensor], network: NetworkConfig) -> dict[str, Tensor]:
    """Our state from theirs.

    Raises:
        KeyError: tensors of the table that `state` lacks, or that it has beyond the table, all of them named.
    """
    rows = list(rows)
    names = [name for row in rows for name in row.theirs]
    missing = [name for name in names if name not in state]
    unknown = sorted(set(state) - set(names))
    if missing or unknown:
        raise KeyError(f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}")
    return {row.ours: row.rule.to_ours([state[name] for name in row.theirs], network).contiguous() for row in rows}


def to_theirs(rows: Iterable[Row], state: Mapping[str, Tensor], network: NetworkConfig) -> dict[str, Tensor]:
    """Their state from ours. Raises KeyError: a tensor of the table is missing."""
    return {
        name: tensor.contiguous()
        for row in rows
        for name, tensor in zip(row.theirs, row.rule.to_theirs(state[row.ours], network), strict=True)
    }


def bits_equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same in type, shape and every bit (NaNs and signs of zero included)."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return torch.equal(a.contiguous().view(integers), b.contiguous().view(integers))

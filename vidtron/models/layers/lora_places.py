"""Where a layer takes adapters: beside which of its linear maps, and how the parts of the map's output lie in it.

Shape letters: F features of one part, K kinds of tokens, D hidden width.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Split = Literal["column", "row", "vectors", "context"]
"""How the map is split over the TP group. vectors: by columns, its input one row a sample and whole on every rank;
context: by columns, its input a whole text on every rank."""


def by_head(parts: Sequence[Tensor], heads: int) -> Tensor:
    """Parts [..., F] that the output has in turn for each head: [..., parts * F]."""
    return torch.stack([part.unflatten(-1, (heads, -1)) for part in parts], dim=-2).flatten(-3)


def by_kind(parts: Sequence[Tensor], kinds: int) -> Tensor:
    """Modulation vectors [..., K * 3 * D], a part for each norm, as each kind of tokens has them: [..., K, 3 * parts,
    D]."""
    return torch.cat([part.unflatten(-1, (kinds, 3, -1)) for part in parts], dim=-2)


def one_after_another(parts: Sequence[Tensor]) -> Tensor:
    """Parts [..., F] as whole blocks: [..., parts * F]."""
    return torch.cat(tuple(parts), dim=-1)


@dataclass(frozen=True)
class Place:
    """A linear map of a layer that can have adapters."""

    split: Split
    parts: tuple[str, ...]
    """Parts of the map's output that have an adapter each, of the same size."""
    beside: str
    """The linear map in the layer; `*` is a number."""
    joined: Callable[[Sequence[Tensor], Any], Tensor]
    """All parts [..., F] and the model's configuration -> the map's output [..., parts * F]."""

    def delta(self, products: Mapping[str, Tensor], network: Any) -> Tensor:
        """Sum of the adapters' products [F, inputs], as added to the map's weight: [parts * F, inputs].

        Args:
            products: part -> B A; parts without an adapter are left out.
            network: the model's configuration, with `num_attention_heads` and `hidden_size`.
        """
        return self.joined([part.t() for part in with_zeros(products, self.parts)], network).t()


def _heads(parts: Sequence[Tensor], network: Any) -> Tensor:
    return by_head(parts, network.num_attention_heads)


def _vectors(parts: Sequence[Tensor], network: Any) -> Tensor:
    return by_kind(parts, parts[0].shape[-1] // (3 * network.hidden_size)).flatten(-3)


def _blocks(parts: Sequence[Tensor], network: Any) -> Tensor:
    return one_after_another(parts)


_WHOLE = ("out",)
PLACES: dict[str, Place] = {
    "self_attention.lora_qkv": Place("column", ("q", "k", "v"), "self_attention.linear_qkv", _heads),
    "self_attention.lora_proj": Place("row", _WHOLE, "self_attention.linear_proj", _blocks),
    "mlp.lora_fc1": Place("column", _WHOLE, "mlp.linear_fc1", _blocks),
    "mlp.lora_gated_fc1": Place("column", ("gate", "value"), "mlp.linear_fc1", _blocks),
    "mlp.lora_fc2": Place("row", _WHOLE, "mlp.linear_fc2", _blocks),
    "modulation.lora": Place("vectors", ("norm1", "norm2"), "modulation.linear", _vectors),
    "cross_attention.lora_q": Place("column", _WHOLE, "cross_attention.linear_q", _blocks),
    "cross_attention.kv.*.lora": Place("context", ("k", "v"), "cross_attention.kv.*.linear", _heads),
    "cross_attention.lora_proj": Place("row", _WHOLE, "cross_attention.linear_proj", _blocks),
}
"""Where a `ModulatedLayer` takes adapters; `*` is a number."""


def place_of(place: str) -> Place:
    """The entry of `PLACES` for a place with its number: `cross_attention.kv.0.lora`. Raises KeyError."""
    return PLACES[_numberless(place)]


def places_beside(weight: str) -> list[tuple[str, str]]:
    """Places of the adapters that one of a network's weights can have.

    Args:
        weight: its name, such as `decoder.layers.3.cross_attention.kv.0.linear.weight`.

    Returns:
        The layer and the place: `decoder.layers.3`, `cross_attention.kv.0.lora`. An MLP's first map has two, one for
        a plain MLP and one for a gated one; other weights, biases, and maps outside the layers have none.
    """
    *words, kind = weight.split(".")
    found = []
    for name, place in PLACES.items() if kind == "weight" else ():
        length = place.beside.count(".") + 1
        own = words[-length:]
        in_layer = len(words) > length and words[-length - 1].isdigit()
        if in_layer and _numberless(".".join(own)) == place.beside:
            for number in filter(str.isdigit, own):
                name = name.replace("*", number, 1)
            found.append((".".join(words[:-length]), name))
    return found


def with_zeros(parts: Mapping[str, Tensor], names: Iterable[str]) -> list[Tensor]:
    """The parts in the order of `names`; zeros for those that are left out."""
    some = next(iter(parts.values()))
    return [parts[name] if name in parts else torch.zeros_like(some) for name in names]


def _numberless(name: str) -> str:
    return ".".join("*" if word.isdigit() else word for word in name.split("."))

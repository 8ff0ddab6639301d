"""Adapters merged into the weights they stand beside: W + alpha / rank * B A.

Shape letters: O output features, I input features of a whole map, K kinds of tokens, V vectors, D hidden width.
"""

from collections.abc import Container, Mapping
from typing import Any

import torch
from torch import Tensor

from vidtron.checkpoint.lora_adapters import Adapter
from vidtron.models.cogvideox.checkpoint_names import our_rows, sizes
from vidtron.models.layers.lora import PLACES

_MAPS = {
    "self_attention.lora_qkv": "self_attention.linear_qkv",
    "self_attention.lora_proj": "self_attention.linear_proj",
    "mlp.lora_fc1": "mlp.linear_fc1",
    "mlp.lora_fc2": "mlp.linear_fc2",
    "modulation.lora": "modulation.linear",
}
"""Place of adapters -> the map they stand beside."""


def beside(name: str, adapters: Container[str]) -> tuple[str, dict[str, str]]:
    """The adapters of one of the network's weights, by its name: their place, and part of the output -> name."""
    for place, linear in _MAPS.items():
        if name.endswith(f".{linear}.weight"):
            prefix = name.removesuffix(f"{linear}.weight") + place
            names = {part: f"{prefix}.{part}" for part in PLACES[place][1]}
            return place, {part: adapter for part, adapter in names.items() if adapter in adapters}
    return "", {}


def misfits(adapters: Mapping[str, Adapter], network: Any) -> list[str]:
    """A message for each adapter that the network has no map for, or one of another size."""
    letters = sizes(network)
    wanted = {}
    for row in our_rows(network):
        place, found = beside(row.ours, adapters)
        for adapter in found.values():
            outputs, inputs = row.our_shape(letters)
            wanted[adapter] = outputs // len(PLACES[place][1]), inputs
    problems = []
    for name, a in adapters.items():
        shape = a.B.shape[0], a.A.shape[1]
        if name not in wanted:
            problems.append(f"{name}: the network has no such map")
        elif shape != wanted[name]:
            problems.append(f"{name}: for a map of {list(shape)}; the network has {list(wanted[name])}")
    return problems


def merged(
    name: str,
    weight_OI: Tensor,
    adapters: Mapping[str, Adapter],
    network: Any,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """One of the network's weights with its adapters in it; any other tensor as it is.

    Args:
        name: of the weight in the whole model.
        weight_OI: the whole tensor, in our layout.
        adapters: of the whole model (`lora_formats.read`).
        network: the model's configuration.
        dtype: of a weight with adapters; unset: as it was.

    Returns:
        The sum, taken in fp32 (in fp64 for an fp64 weight) and rounded once.
    """
    place, parts = beside(name, adapters)
    if not parts:
        return weight_OI
    precise = torch.promote_types(weight_OI.dtype, torch.float32)
    found = {part: adapters[adapter] for part, adapter in parts.items()}
    products = {part: a.scale * (a.B.to(precise) @ a.A.to(precise)) for part, a in found.items()}
    return (weight_OI.to(precise) + _joined(place, products, weight_OI, network)).to(dtype or weight_OI.dtype)


def _joined(place: str, products: dict[str, Tensor], weight_OI: Tensor, network: Any) -> Tensor:
    """The products of all parts in the layout of the map's weight; zero where a part has no adapter."""
    names = PLACES[place][1]
    some = next(iter(products.values()))
    parts = [products.get(name, torch.zeros_like(some)) for name in names]
    if place == "self_attention.lora_qkv":
        heads = network.num_attention_heads
        return torch.stack([part.unflatten(0, (heads, -1)) for part in parts], dim=1).flatten(0, 2)
    if place == "modulation.lora":
        kinds = weight_OI.shape[0] // (6 * network.hidden_size)
        return torch.cat([part.unflatten(0, (kinds, 3, -1)) for part in parts], dim=1).flatten(0, 2)
    return parts[0]

"""Adapters merged into the weights they stand beside: W + alpha / rank * B A.

Shape letters: O output features, I input features of a whole map.
"""

from collections.abc import Container, Mapping
from typing import Any

import torch
from torch import Tensor

from vidtron.checkpoint.lora_adapters import Adapter
from vidtron.models.family import Family
from vidtron.models.layers.lora_places import Place, place_of, places_beside


def beside(name: str, adapters: Container[str]) -> list[tuple[Place, dict[str, str]]]:
    """The adapters of one of the network's weights, by its name: where they stand, and part of the output -> name."""
    found = []
    for layer, where in places_beside(name):
        place = place_of(where)
        parts = {part: f"{layer}.{where}.{part}" for part in place.parts if f"{layer}.{where}.{part}" in adapters}
        if parts:
            found.append((place, parts))
    return found


def misfits(adapters: Mapping[str, Adapter], family: Family, network: Any) -> list[str]:
    """A message for each adapter that the network has no map for, or one of another size."""
    letters = family.sizes(network)
    wanted: dict[str, tuple[int, int]] = {}
    for row in family.rows(network):
        for place, parts in beside(row.ours, adapters):
            outputs, inputs = row.our_shape(letters)
            wanted |= dict.fromkeys(parts.values(), (outputs // len(place.parts), inputs))
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
    """A weight of the network with its adapters merged into it; any other tensor unchanged.

    Args:
        name: of the weight in the whole model.
        weight_OI: the whole tensor, in our layout.
        adapters: of the whole model (`lora_formats.read`).
        network: the model's configuration.
        dtype: of a weight with adapters; unset: as it was.

    Returns:
        The sum, taken in fp32 (in fp64 for an fp64 weight) and rounded once.
    """
    found = beside(name, adapters)
    if not found:
        return weight_OI
    precise = torch.promote_types(weight_OI.dtype, torch.float32)
    total_OI = weight_OI.to(precise)
    for place, parts in found:
        chosen = {part: adapters[adapter] for part, adapter in parts.items()}
        products = {part: a.scale * (a.B.to(precise) @ a.A.to(precise)) for part, a in chosen.items()}
        total_OI = total_OI + place.delta(products, network)
    return total_OI.to(dtype or weight_OI.dtype)

"""Adapters merged into the weights they stand beside: W + alpha / rank * B A.

Shape letters: O output features, I input features of a whole map, K kinds of tokens, V vectors, D hidden width.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vidtron.checkpoint.lora_adapters import Adapter
from vidtron.models.layers.lora import PLACES

_MAPS = {
    "self_attention.lora_qkv": "self_attention.linear_qkv",
    "self_attention.lora_proj": "self_attention.linear_proj",
    "mlp.lora_fc1": "mlp.linear_fc1",
    "mlp.lora_fc2": "mlp.linear_fc2",
    "modulation.lora": "modulation.linear",
}
"""Place of adapters -> the map they stand beside."""


def merged(name: str, weight_OI: Tensor, adapters: Mapping[str, Adapter], network: Any) -> Tensor:
    """One of the network's weights with its adapters in it; any other tensor as it is.

    Args:
        name: of the weight in the whole model.
        weight_OI: the whole tensor, in our layout.
        adapters: of the whole model (`lora_formats.read`).
        network: the model's configuration.

    Returns:
        A tensor of the weight's dtype; the sum is taken in fp32, and in fp64 for an fp64 weight.
    """
    for place, linear in _MAPS.items():
        if not name.endswith(f".{linear}.weight"):
            continue
        prefix = name.removesuffix(f"{linear}.weight") + place
        parts = {part: adapters[f"{prefix}.{part}"] for part in PLACES[place][1] if f"{prefix}.{part}" in adapters}
        if parts:
            precise = torch.promote_types(weight_OI.dtype, torch.float32)
            products = {part: a.scale * (a.B.to(precise) @ a.A.to(precise)) for part, a in parts.items()}
            return (weight_OI.to(precise) + _joined(place, products, weight_OI, network)).to(weight_OI.dtype)
    return weight_OI


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

"""Names of the network's weights, and its adapters."""

from collections.abc import Callable, Iterator
from typing import Any

from toydit.config import ToyConfig

LAYER = (
    "input_layernorm.weight",
    "self_attention.linear_qkv",
    "self_attention.linear_proj",
    "self_attention.q_layernorm.weight",
    "self_attention.k_layernorm.weight",
    "pre_cross_attn_layernorm.weight",
    "cross_attention.linear_q",
    "cross_attention.linear_proj",
    "cross_attention.q_layernorm.weight",
    *(f"cross_attention.kv.{number}.{part}" for number in (0, 1) for part in ("linear", "k_layernorm.weight")),
    "pre_mlp_layernorm.weight",
    "mlp.linear_fc1",
    "mlp.linear_fc2",
    "modulation.table",
)
OUTSIDE = (
    "time_embedding.linear_1",
    "time_embedding.linear_2",
    "pooled",
    "vectors",
    "texts.0",
    "texts.1",
    "patch_proj",
    "decoder.final_layernorm.weight",
    "final_table.table",
    "proj",
)
LORA_PARTS = {
    "self_attention.lora_qkv": ("q", "k", "v"),
    "cross_attention.lora_q": ("out",),
    "cross_attention.kv.0.lora": ("k", "v"),
    "cross_attention.kv.1.lora": ("v",),
    "cross_attention.lora_proj": ("out",),
    "mlp.lora_gated_fc1": ("gate", "value"),
    "mlp.lora_fc2": ("out",),
}


def parameters(network: ToyConfig, *, adapters: bool) -> list[str]:
    """Names of all weights in the whole network."""
    layer = [*LAYER]
    if adapters:
        layer += [f"{place}.{part}.{half}" for place, parts in LORA_PARTS.items() for part in parts for half in "AB"]
    named = [*OUTSIDE, *(f"decoder.layers.{i}.{name}" for i in range(network.num_layers) for name in layer)]
    return [whole for name in named for whole in _halves(name)]


def _halves(name: str) -> Iterator[str]:
    """A linear map's weight and bias; everything else is a parameter itself."""
    if name.rsplit(".", 1)[-1] in ("weight", "table", "A", "B"):
        yield name
    else:
        yield from (f"{name}.weight", f"{name}.bias")


def as_class(function: Callable[..., Any]) -> type:
    """A function that builds a module, in a form that megatron-core's specs take for a module."""

    class Built:
        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

    return Built

"""Names of the network's weights, and its adapters."""

from collections.abc import Callable
from typing import Any

from toydit.config import GEOMETRY, ToyConfig
from vidtron.models.layers.checkpoint_rules import Row, Same, expand
from vidtron.models.lora_targets import ForeignModule, LoraTarget

_LAYER = {
    "input_layernorm.weight": "D",
    "self_attention.linear_qkv": "3D D",
    "self_attention.linear_proj": "D D",
    "self_attention.q_layernorm.weight": "D",
    "self_attention.k_layernorm.weight": "D",
    "pre_cross_attn_layernorm.weight": "D",
    "cross_attention.linear_q": "D D",
    "cross_attention.linear_proj": "D D",
    "cross_attention.q_layernorm.weight": "D",
    "cross_attention.kv.0.linear": "2D D",
    "cross_attention.kv.0.k_layernorm.weight": "D",
    "cross_attention.kv.1.linear": "2D D",
    "cross_attention.kv.1.k_layernorm.weight": "D",
    "pre_mlp_layernorm.weight": "D",
    "mlp.linear_fc1": "4D D",
    "mlp.linear_fc2": "D 2D",
    "modulation.table": "1 6 D",
}
_OUTSIDE = {
    "time_embedding.linear_1": "E D",
    "time_embedding.linear_2": "E E",
    "pooled": "E Y",
    "vectors": "6D E",
    "texts.0": "D X",
    "texts.1": "D Y",
    "patch_proj": "D C",
    "decoder.final_layernorm.weight": "D",
    "final_table.table": "1 2 D",
    "proj": "2C D",
}
_ADAPTERS = {
    "attn.q": "self_attention.lora_qkv.q",
    "attn.k": "self_attention.lora_qkv.k",
    "attn.v": "self_attention.lora_qkv.v",
    "cross.q": "cross_attention.lora_q.out",
    "cross.k1": "cross_attention.kv.0.lora.k",
    "cross.v1": "cross_attention.kv.0.lora.v",
    "cross.k2": "cross_attention.kv.1.lora.k",
    "cross.v2": "cross_attention.kv.1.lora.v",
    "cross.out": "cross_attention.lora_proj.out",
    "mlp.gate": "mlp.lora_gated_fc1.gate",
    "mlp.up": "mlp.lora_gated_fc1.value",
    "mlp.down": "mlp.lora_fc2.out",
}
LORA_TARGETS = tuple(
    LoraTarget(
        flag,
        ours,
        foreign={"diffusers": ForeignModule(f"blocks.*.{flag}")},
        by_default=flag not in ("cross.k2", "mlp.up"),
    )
    for flag, ours in _ADAPTERS.items()
)


def table() -> list[Row]:
    """All weights. A linear map has a weight and a bias; all else is a parameter itself."""
    found = []
    for name, shape in (*_OUTSIDE.items(), *((f"decoder.layers.*.{n}", shape) for n, shape in _LAYER.items())):
        if name.endswith((".weight", ".table")):
            found.append(_row(name, shape))
        else:
            found += [_row(f"{name}.weight", shape), _row(f"{name}.bias", shape.split()[0])]
    return found


def rows(network: ToyConfig) -> list[Row]:
    """The same of the whole network."""
    return expand(table(), network.num_layers)


def _row(name: str, shape: str) -> Row:
    return Row(name, (name,), Same(), tuple(shape.split()))


def sizes(network: ToyConfig) -> dict[str, int]:
    """What the letters of the shapes stand for."""
    first, second = network.texts
    hidden, time = network.hidden_size, network.time_embed_dim
    return {"D": hidden, "E": time, "C": GEOMETRY.channels, "X": first.width, "Y": second.width}


def as_class(function: Callable[..., Any]) -> type:
    """A function that builds a module, in a form that megatron-core's specs take for a module."""

    class Built:
        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

    return Built

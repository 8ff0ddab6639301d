"""Upstream's configuration of SAT's network, read and written."""

from collections.abc import Mapping
from typing import Any

from vidtron.models.cogvideox.config import TEMPORAL_RATIO, CogVideoXConfig
from vidtron.models.foreign import SampleSize
from vidtron.models.foreign_values import (
    CHANNELS,
    FRAMES,
    HEADS,
    LATENT_PIXELS,
    LAYERS,
    PATCH,
    TEXT_TOKENS,
    WIDTH,
    Limit,
    wrong_values,
)

_LIMITS: dict[str, Limit] = {
    "num_layers": LAYERS,
    "hidden_size": WIDTH,
    "num_attention_heads": HEADS,
    "time_embed_dim": WIDTH,
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "num_frames": FRAMES,
    "latent_height": LATENT_PIXELS,
    "latent_width": LATENT_PIXELS,
}
_FIELD_LIMITS: dict[str, Limit] = {
    "patch_size": PATCH,
    "patch_size_t": PATCH,
    "text_length": TEXT_TOKENS,
    "text_width": WIDTH,
    "spatial_interpolation": float,
    "lora_alpha": float,
}


def sat_parameters(content: Any) -> dict[str, Any]:
    """Network parameters in upstream's YAML or model_config.json, as read; empty if there are none.

    The values are fields of CogVideoXConfig, `sample`, and `lora_alpha` where it is given.

    Raises:
        ValueError: values are of another type or out of range; all of them are named.
    """
    params = _parameters_in(content)
    if params is None:
        return {}
    problems = wrong_values(params, _LIMITS)
    if not isinstance(params["modules"], Mapping):
        problems.append(f"modules: {params['modules']!r}; accepted: the configurations of the network's parts")
    if problems:
        raise ValueError("\n".join(problems))
    fields = _sat_fields(params)
    if problems := wrong_values(fields, _FIELD_LIMITS):
        raise ValueError("\n".join(problems))
    return fields


def _parameters_in(content: Any) -> Mapping[str, Any] | None:
    """The network's block, wherever it stands; what aliases repeat is looked at once."""
    seen: set[int] = set()
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if not isinstance(value, Mapping | list) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Mapping):
            if {"num_layers", "hidden_size", "modules"} <= value.keys():
                return value
            value = list(value.values())
        waiting += reversed(value)
    return None


def _sat_fields(params: Mapping[str, Any]) -> dict[str, Any]:
    names = ("num_layers", "hidden_size", "num_attention_heads", "time_embed_dim", "in_channels", "out_channels")
    fields: dict[str, Any] = {name: params[name] for name in names if params.get(name) is not None}
    patch = params.get("patch_size")
    if patch is not None:
        sizes = list(patch) if isinstance(patch, list) else [patch]
        fields |= {"patch_size": sizes[-1], "patch_size_t": sizes[0] if len(sizes) == 3 else 1}
    modules = params["modules"]
    positions = _block(modules, "pos_embed_config")
    inner = _block(positions, "params")
    if positions.get("target"):
        rotary = "rotary" in str(positions["target"]).lower()
        fields["position"] = "rotary" if rotary else "sincos"
    if "text_length" in inner:
        fields["text_length"] = inner["text_length"]
    if "height_interpolation" in inner:
        fields["spatial_interpolation"] = inner["height_interpolation"]
    width = _block(_block(modules, "patch_embed_config"), "params").get("text_hidden_size")
    if width is not None:
        fields["text_width"] = width
    alpha = _block(_block(modules, "lora_config"), "params").get("lora_alpha")
    if alpha is not None:
        fields["lora_alpha"] = alpha
    if {"num_frames", "latent_height", "latent_width"} <= params.keys():
        fields["sample"] = SampleSize(params["num_frames"], params["latent_height"], params["latent_width"])
    return fields


def _block(block: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = block.get(name)
    return value if isinstance(value, Mapping) else {}


def to_sat(
    network: CogVideoXConfig, sample: SampleSize, version: str, lora: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The `network_config` block of upstream's YAML for code of that version ("1.0" or "1.5").

    Args:
        network: that is written.
        sample: size of its tables.
        version: of upstream's code.
        lora: `r` and `lora_alpha` of its adapters, if it has any.
    """
    module = "dit_video_concat"
    patch = network.patch_size
    positions: dict[str, Any] = {"text_length": network.text_length}
    if network.position == "sincos":
        kind = "Basic3DPositionEmbeddingMixin"
        positions |= dict.fromkeys(("height_interpolation", "width_interpolation"), network.spatial_interpolation)
    else:
        kind = "Rotary3DPositionEmbeddingMixin"
        positions |= {"hidden_size_head": network.head_dim}
        if network.learned_position_grid is not None:
            positions["learnable_pos_embed"] = True
    params: dict[str, Any] = {
        "time_embed_dim": network.time_embed_dim,
        "elementwise_affine": True,
        "num_frames": sample.frames,
        "time_compressed_rate": TEMPORAL_RATIO,
        "latent_width": sample.width,
        "latent_height": sample.height,
        "num_layers": network.num_layers,
        "patch_size": patch if version == "1.0" else [network.patch_size_t, patch, patch],
        "in_channels": network.in_channels,
        "out_channels": network.out_channels,
        "hidden_size": network.hidden_size,
        "num_attention_heads": network.num_attention_heads,
        "modules": {
            "pos_embed_config": {"target": f"{module}.{kind}", "params": positions},
            "patch_embed_config": {
                "target": f"{module}.ImagePatchEmbeddingMixin",
                "params": {"text_hidden_size": network.text_width},
            },
            "adaln_layer_config": {"target": f"{module}.AdaLNMixin", "params": {"qk_ln": True}},
            "final_layer_config": {"target": f"{module}.FinalLayerMixin"},
        },
    }
    if lora is not None:
        params["modules"]["lora_config"] = {"target": "sat.model.finetune.lora2.LoraMixin", "params": dict(lora)}
    if network.ofs_embedding:
        params["ofs_embed_dim"] = network.time_embed_dim
    return {"network_config": {"target": f"{module}.DiffusionTransformer", "params": params}}

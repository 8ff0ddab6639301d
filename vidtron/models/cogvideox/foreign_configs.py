"""A CogVideoX network as SAT's and diffusers' configurations describe it, and as a file's tensors show it."""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from vidtron.models.cogvideox import foreign_values as values
from vidtron.models.cogvideox.checkpoint_names import FREQS, POS_EMBEDDING, UNUSED_POSITIONS
from vidtron.models.cogvideox.checkpoint_tables import (
    TEMPORAL_RATIO,
    Grid,
    SampleSize,
    grid_of_freqs,
    grid_of_sincos,
    sincos_table,
)
from vidtron.models.cogvideox.config import PRESETS, CogVideoXConfig
from vidtron.models.cogvideox.foreign_values import wrong_values
from vidtron.models.layers.checkpoint_rules import Shape

SAT_FINAL_NORM_EPS, DIFFUSERS_FINAL_NORM_EPS = 1e-6, 1e-5
_FREE_FIELDS = ("text_length", "init_method_std", "final_norm_eps")
"""Fields that no tensor's meaning depends on."""
_FIXED_IN_DIFFUSERS: dict[str, Any] = {
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "dropout": 0.0,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "norm_elementwise_affine": True,
    "norm_eps": DIFFUSERS_FINAL_NORM_EPS,
    "temporal_compression_ratio": TEMPORAL_RATIO,
    "temporal_interpolation_scale": 1.0,
    "timestep_activation_fn": "silu",
}


_LIMITS_IN_DIFFUSERS: dict[str, values.Limit] = {
    "num_layers": values.LAYERS,
    "num_attention_heads": values.HEADS,
    "attention_head_dim": values.HEADS,
    "time_embed_dim": values.WIDTH,
    "in_channels": values.CHANNELS,
    "out_channels": values.CHANNELS,
    "patch_size": values.PATCH,
    "patch_size_t": values.PATCH,
    "max_text_seq_length": values.TEXT_TOKENS,
    "text_embed_dim": values.WIDTH,
    "sample_frames": values.FRAMES,
    "sample_height": values.LATENT_PIXELS,
    "sample_width": values.LATENT_PIXELS,
    "spatial_interpolation_scale": float,
    "use_rotary_positional_embeddings": bool,
    "use_learned_positional_embeddings": bool,
}


def closest_preset(network: CogVideoXConfig) -> str:
    """The preset of the same kind that differs in the fewest fields; the tiny one only if it is the network."""

    def distance(name: str) -> tuple[bool, bool, int]:
        preset: CogVideoXConfig = PRESETS[name].network
        differing = {
            f.name
            for f in dataclasses.fields(network)
            if f.name not in _FREE_FIELDS and getattr(network, f.name) != getattr(preset, f.name)
        }
        other_kind = bool(differing & {"position", "patch_size_t", "in_channels", "ofs_embedding"})
        return other_kind, name == "cogvideox-tiny" and bool(differing), len(differing)

    return min(PRESETS, key=distance)


def default_sample(network: CogVideoXConfig) -> SampleSize:
    """The size of the released files' tables."""
    if network.learned_position_grid is not None:
        return SampleSize.of_grid(network.learned_position_grid, network.patch_size, network.patch_size_t)
    return SampleSize(49, 60, 90) if network.patch_size_t == 1 else SampleSize(81, 300, 300)


def from_diffusers(config: Mapping[str, Any]) -> tuple[CogVideoXConfig, SampleSize]:
    """The network of a diffusers `config.json`.

    Raises:
        ValueError: it describes something that vidtron's network is not; all of it is named.
    """
    problems = [
        f"{name}: {config[name]!r}; accepted: {value!r}"
        for name, value in _FIXED_IN_DIFFUSERS.items()
        if config.get(name, value) != value
    ]
    problems += wrong_values(config, _LIMITS_IN_DIFFUSERS)
    if config.get("ofs_embed_dim") not in (None, config.get("time_embed_dim", 512)):
        problems.append(f"ofs_embed_dim: {config['ofs_embed_dim']}; accepted: null or time_embed_dim")
    if problems:
        raise ValueError("\n".join(problems))
    config = {name: value for name, value in config.items() if value is not None}
    heads = config.get("num_attention_heads", 30)
    sample = SampleSize(
        config.get("sample_frames", 49), config.get("sample_height", 60), config.get("sample_width", 90)
    )
    network = CogVideoXConfig(
        num_layers=config.get("num_layers", 30),
        hidden_size=heads * config.get("attention_head_dim", 64),
        num_attention_heads=heads,
        time_embed_dim=config.get("time_embed_dim", 512),
        in_channels=config.get("in_channels", 16),
        out_channels=config.get("out_channels") or config.get("in_channels", 16),
        patch_size=config.get("patch_size", 2),
        patch_size_t=config.get("patch_size_t") or 1,
        text_length=config.get("max_text_seq_length", 226),
        text_width=config.get("text_embed_dim", 4096),
        position="rotary" if config.get("use_rotary_positional_embeddings", False) else "sincos",
        spatial_interpolation=config.get("spatial_interpolation_scale", 1.875),
        ofs_embedding=config.get("ofs_embed_dim") is not None,
        final_norm_eps=DIFFUSERS_FINAL_NORM_EPS,
    )
    if config.get("use_learned_positional_embeddings", False):
        network.learned_position_grid = sample.grid(network)
    return network, sample


def to_diffusers(network: CogVideoXConfig, sample: SampleSize) -> dict[str, Any]:
    """The `config.json` that `from_pretrained` expects. The final norm's epsilon is diffusers' own, 1e-5."""
    long_patches = network.patch_size_t > 1
    return {
        "_class_name": "CogVideoXTransformer3DModel",
        **_FIXED_IN_DIFFUSERS,
        "attention_head_dim": network.head_dim,
        "in_channels": network.in_channels,
        "max_text_seq_length": network.text_length,
        "num_attention_heads": network.num_attention_heads,
        "num_layers": network.num_layers,
        "ofs_embed_dim": network.time_embed_dim if network.ofs_embedding else None,
        "out_channels": network.out_channels,
        "patch_bias": not long_patches,
        "patch_size": network.patch_size,
        "patch_size_t": network.patch_size_t if long_patches else None,
        "sample_frames": sample.frames,
        "sample_height": sample.height,
        "sample_width": sample.width,
        "spatial_interpolation_scale": network.spatial_interpolation,
        "text_embed_dim": network.text_width,
        "time_embed_dim": network.time_embed_dim,
        "use_learned_positional_embeddings": network.learned_position_grid is not None,
        "use_rotary_positional_embeddings": network.position == "rotary",
    }


def from_sat(
    shapes: Mapping[str, Shape], read: Callable[[str], Tensor], config: Mapping[str, Any]
) -> tuple[CogVideoXConfig, SampleSize]:
    """The network of a SAT file; what the configuration says goes before what the tensors show.

    Args:
        shapes: name (without prefix) -> shape of the file's tensors, whole.
        read: one of those tensors.
        config: what `sat_parameters` found, or nothing.

    Raises:
        ValueError: tensors that would tell are missing, or nothing tells the positions; `--model` would.
    """
    known = _sizes_of_tensors(shapes) | dict(config)
    missing = [witness for size, witness in _WITNESSES.items() if size not in known]
    if missing:
        raise ValueError("\n".join(f"{name}: missing" for name in missing))
    if known["hidden_size"] % known["num_attention_heads"]:
        raise ValueError(
            f"hidden size {known['hidden_size']} does not divide by {known['num_attention_heads']} attention heads"
        )
    known.update(_patches(shapes, known))
    sample = known.pop("sample", None)
    known.update(_positions(shapes, read, known, sample))
    sample = known.pop("sample", sample)
    known["final_norm_eps"] = SAT_FINAL_NORM_EPS
    network = CogVideoXConfig(
        **{f.name: known[f.name] for f in dataclasses.fields(CogVideoXConfig) if f.name in known}
    )
    return network, sample or default_sample(network)


def sample_of_sat(
    network: CogVideoXConfig, shapes: Mapping[str, Shape], read: Callable[[str], Tensor], config: Mapping[str, Any]
) -> SampleSize:
    """The size of a SAT file's tables where the network is known; arguments as for `from_sat`."""
    like = network.patch_size, network.patch_size_t
    if FREQS[0] in shapes:
        return SampleSize.of_grid(grid_of_freqs(read(FREQS[0])), *like)
    if network.position == "sincos" and POS_EMBEDDING in shapes:
        return SampleSize.of_grid(grid_of_sincos(read(POS_EMBEDDING)[0])[1], *like)
    return config.get("sample") or default_sample(network)


_WITNESSES = {
    "hidden_size": "transformer.final_layernorm.weight",
    "time_embed_dim": "time_embed.0.bias",
    "text_width": "mixins.patch_embed.text_proj.weight",
    "num_layers": "transformer.layers.0.input_layernorm.weight",
    "num_attention_heads": "mixins.adaln_layer.query_layernorm_list.0.weight",
}


_LAYER = re.compile(r"transformer\.layers\.(\d{1,9})\.")


def _sizes_of_tensors(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """What most tensors agree on: one of a wrong shape does not change it."""

    def votes(dim: int, *parts: str) -> Iterator[int]:
        for name, shape in shapes.items():
            if any(part in name for part in parts) and len(shape) > dim:
                yield shape[dim]

    def most(values: Iterator[int]) -> int | None:
        ranking = Counter(values).most_common(1)
        return ranking[0][0] if ranking else None

    hidden = most(votes(0, "input_layernorm.", "post_attention_layernorm.", "final_layernorm.", ".text_proj."))
    head = most(votes(0, "query_layernorm_list.", "key_layernorm_list."))
    layers = [int(match[1]) for name in shapes if (match := _LAYER.match(name))]
    found = {
        "hidden_size": hidden,
        "num_attention_heads": hidden // head if hidden and head else None,
        "time_embed_dim": most(votes(0, "time_embed.")),
        "text_width": most(votes(1, "patch_embed.text_proj.weight")),
        "num_layers": max(layers) + 1 if layers else None,
        "ofs_embedding": any(name.startswith("ofs_embed.") for name in shapes),
    }
    return {name: value for name, value in found.items() if value is not None}


def _patches(shapes: Mapping[str, Shape], known: Mapping[str, Any]) -> dict[str, int]:
    """Channels and patch sizes. A flat weight shows only products: 16 latent channels and patches of 2 x 2 then."""
    names = ("mixins.patch_embed.proj.weight", "mixins.final_layer.linear.weight")
    if missing := [name for name in names if name not in shapes]:
        raise ValueError("\n".join(f"{name}: missing" for name in missing))
    weight, outputs = shapes[names[0]], shapes[names[1]][0]
    flat = len(weight) == 2
    patch = known.get("patch_size", 2 if flat else weight[2])
    out_channels = known.get("out_channels", 16 if flat else max(outputs // patch**2, 1))
    patch_t = known.get("patch_size_t", max(outputs // (patch**2 * out_channels), 1) if flat else 1)
    in_channels = known.get("in_channels", weight[1] // (patch**2 * patch_t) if flat else weight[1])
    return {
        "patch_size": patch,
        "patch_size_t": patch_t,
        "in_channels": in_channels,
        "out_channels": out_channels,
    }


def _positions(
    shapes: Mapping[str, Shape], read: Callable[[str], Tensor], known: Mapping[str, Any], sample: SampleSize | None
) -> dict[str, Any]:
    """Kind of the positions, text length and sizes of the tables, from the tables or else the presets."""
    like = known["patch_size"], known["patch_size_t"]
    found: dict[str, Any] = {}
    grid: Grid | None = None
    if FREQS[0] in shapes:
        grid = grid_of_freqs(read(FREQS[0]))
        found |= {"position": "rotary", "sample": SampleSize.of_grid(grid, *like)}
    elif UNUSED_POSITIONS in shapes or len(shapes["mixins.patch_embed.proj.weight"]) == 2:
        found["position"] = "rotary"
    if POS_EMBEDDING in shapes and "position" not in found:
        found |= _sincos(read(POS_EMBEDDING)[0], known)
    if "position" not in found:
        found["position"] = known.get("position") or _position_of_presets(known)
    if found["position"] == "rotary":
        default = 226 if known["patch_size_t"] == 1 else 224
        found["text_length"] = known.get("text_length", default)
        if POS_EMBEDDING in shapes:
            found |= _learned(shapes[POS_EMBEDDING][1], grid, sample, known)
    return found


def _sincos(table_MD: Tensor, known: Mapping[str, Any]) -> dict[str, Any]:
    """Positions of a file whose table is the fixed one; nothing if it is another."""
    text, grid = grid_of_sincos(table_MD)
    sample = SampleSize.of_grid(grid, known["patch_size"], known["patch_size_t"])
    network = CogVideoXConfig(hidden_size=known["hidden_size"], text_length=text)
    network.spatial_interpolation = known.get("spatial_interpolation", network.spatial_interpolation)
    expected = sincos_table(network, sample)[0]
    if expected.shape != table_MD.shape or not is_table(table_MD, expected):
        return {}
    return {"position": "sincos", "text_length": text, "sample": sample}


def is_table(stored: Tensor, computed: Tensor) -> bool:
    """Whether a stored table is the computed one, up to the rounding of its type and of another processor."""
    tolerance = max(1e-4, 2 * torch.finfo(stored.dtype).eps)
    return all(
        bool((part - other).abs().max() <= tolerance)
        for part, other in zip(stored.split(1024), computed.to(stored.dtype).split(1024), strict=True)
    )


def _learned(rows: int, grid: Grid | None, sample: SampleSize | None, known: Mapping[str, Any]) -> dict[str, Any]:
    """Grid of a learned table of so many rows."""
    like = known["patch_size"], known["patch_size_t"]
    grid = grid or known.get("learned_position_grid")
    if grid is None and sample is not None:
        grid = sample.grid(CogVideoXConfig(patch_size=like[0], patch_size_t=like[1]))
    for preset in PRESETS.values():
        learned = preset.network.learned_position_grid
        if grid is None and learned and rows == preset.network.text_length + learned[0] * learned[1] * learned[2]:
            grid = learned
    if grid is None:
        raise ValueError(
            f"{POS_EMBEDDING}: {rows} learned rows, and nothing tells of how many frames, rows and columns; accepted: "
            "--model, or upstream's YAML file or a model_config.json in the folder"
        )
    return {
        "learned_position_grid": grid,
        "text_length": rows - grid[0] * grid[1] * grid[2],
        "sample": SampleSize.of_grid(grid, *like),
    }


def _position_of_presets(known: Mapping[str, Any]) -> str:
    for preset in PRESETS.values():
        if (preset.network.hidden_size, preset.network.num_layers) == (known["hidden_size"], known["num_layers"]):
            return preset.network.position
    raise ValueError(
        "no tensor tells whether positions are sincos or rotary (the file has none of pos_embedding, freqs_sin and "
        "position_embeddings); accepted: --model, or upstream's YAML file or a model_config.json in the folder"
    )

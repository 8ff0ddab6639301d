"""A CogVideoX network as the tensors of a SAT file show it."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from vidtron.models.cogvideox.checkpoint_names import FREQS, POS_EMBEDDING, UNUSED_POSITIONS
from vidtron.models.cogvideox.config import PRESETS, CogVideoXConfig
from vidtron.models.cogvideox.sample_size import Grid, default_sample, grid_of_sample, sample_of_grid
from vidtron.models.cogvideox.sat_tables import grid_of_freqs, grid_of_sincos, is_table, sincos_table
from vidtron.models.foreign import ReadTensor, SampleSize
from vidtron.models.layers.checkpoint_rules import Shape

SETTINGS = {"final_norm_eps": 1e-6}
"""Of all networks in SAT's code."""


def from_sat(
    shapes: Mapping[str, Shape], read: ReadTensor, config: Mapping[str, Any]
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
    known.update(SETTINGS)
    network = CogVideoXConfig(
        **{f.name: known[f.name] for f in dataclasses.fields(CogVideoXConfig) if f.name in known}
    )
    return network, sample or default_sample(network)


def sample_of_sat(
    network: CogVideoXConfig, shapes: Mapping[str, Shape], read: ReadTensor, config: Mapping[str, Any]
) -> SampleSize:
    """The size of a SAT file's tables where the network is known; arguments as for `from_sat`."""
    like = network.patch_size, network.patch_size_t
    if FREQS[0] in shapes:
        return sample_of_grid(grid_of_freqs(read(FREQS[0])), *like)
    if network.position == "sincos" and POS_EMBEDDING in shapes:
        return sample_of_grid(grid_of_sincos(read(POS_EMBEDDING)[0])[1], *like)
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
    shapes: Mapping[str, Shape], read: ReadTensor, known: Mapping[str, Any], sample: SampleSize | None
) -> dict[str, Any]:
    """Kind of the positions, text length and sizes of the tables, from the tables or else the presets."""
    like = known["patch_size"], known["patch_size_t"]
    found: dict[str, Any] = {}
    grid: Grid | None = None
    if FREQS[0] in shapes:
        grid = grid_of_freqs(read(FREQS[0]))
        found |= {"position": "rotary", "sample": sample_of_grid(grid, *like)}
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
    sample = sample_of_grid(grid, known["patch_size"], known["patch_size_t"])
    network = CogVideoXConfig(hidden_size=known["hidden_size"], text_length=text)
    network.spatial_interpolation = known.get("spatial_interpolation", network.spatial_interpolation)
    expected = sincos_table(network, sample)[0]
    if expected.shape != table_MD.shape or not is_table(table_MD, expected):
        return {}
    return {"position": "sincos", "text_length": text, "sample": sample}


def _learned(rows: int, grid: Grid | None, sample: SampleSize | None, known: Mapping[str, Any]) -> dict[str, Any]:
    """Grid of a learned table of so many rows."""
    like = known["patch_size"], known["patch_size_t"]
    grid = grid or known.get("learned_position_grid")
    if grid is None and sample is not None:
        grid = grid_of_sample(sample, CogVideoXConfig(patch_size=like[0], patch_size_t=like[1]))
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
        "sample": sample_of_grid(grid, *like),
    }


def _position_of_presets(known: Mapping[str, Any]) -> str:
    for preset in PRESETS.values():
        if (preset.network.hidden_size, preset.network.num_layers) == (known["hidden_size"], known["num_layers"]):
            return preset.network.position
    raise ValueError(
        "no tensor tells whether positions are sincos or rotary (the file has none of pos_embedding, freqs_sin and "
        "position_embeddings); accepted: --model, or upstream's YAML file or a model_config.json in the folder"
    )

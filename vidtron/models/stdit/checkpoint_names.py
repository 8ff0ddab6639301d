"""Names, shapes and initial values of the networks' weights, and their names and layouts in Open-Sora's files.

One entry a tensor; `*` stands for the number of a layer. Sources: the state dicts of STDiT2 (v1.1.0) and STDiT3
(v1.2.0).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vidtron.models.layers import initialization as init
from vidtron.models.layers.checkpoint_rules import QkvThirds, Row, Rule, Same, expand
from vidtron.models.stdit.config import STDiTConfig

NULL_TEXT = "text_projection.null_LE"
"""The one tensor that is no parameter: never trained."""
COMPUTED = ("rope.freqs",)
"""Tensors of Open-Sora's files that follow from the configuration."""


@dataclass(frozen=True)
class Halves:
    """Two contiguous halves [k; v] of rows <-> ours, [k, v] of each head in turn."""

    def to_ours(self, theirs: Sequence[Tensor], network: Any) -> Tensor:
        return theirs[0].unflatten(0, (2, network.num_attention_heads, -1)).transpose(0, 1).flatten(0, 2)

    def to_theirs(self, ours: Tensor, network: Any) -> tuple[Tensor, ...]:
        return (ours.unflatten(0, (network.num_attention_heads, 2, -1)).transpose(0, 1).flatten(0, 2),)


@dataclass(frozen=True)
class OneKind:
    """A table [V, D] <-> ours for one kind of tokens, [1, V, D]."""

    def to_ours(self, theirs: Sequence[Tensor], network: Any) -> Tensor:
        return theirs[0][None]

    def to_theirs(self, ours: Tensor, network: Any) -> tuple[Tensor, ...]:
        return (ours[0],)


@dataclass(frozen=True)
class PatchConvolution3d:
    """A 3D convolution's weight [D, C, 1, p, p] <-> a linear layer's [D, C p p]."""

    def to_ours(self, theirs: Sequence[Tensor], network: Any) -> Tensor:
        return theirs[0].flatten(1)

    def to_theirs(self, ours: Tensor, network: Any) -> tuple[Tensor, ...]:
        return (ours.unflatten(1, (network.in_channels, 1, network.patch_size, network.patch_size)),)


_SAME = Same()


@dataclass(frozen=True)
class _Entry:
    ours: str
    shape: str
    """D hidden width, C a third of it, E text features, L text tokens, S sinusoid, P inputs and O outputs of a patch,
    R head."""
    theirs: str
    rule: Rule = _SAME


def _linear(
    ours: str, shape: str, theirs: str, rule: Rule = _SAME, bias_rule: Rule | None = None
) -> tuple[_Entry, _Entry]:
    """Weight and bias; the bias has the weight's first dimension."""
    return (
        _Entry(f"{ours}.weight", shape, f"{theirs}.weight", rule),
        _Entry(f"{ours}.bias", shape.split()[0], f"{theirs}.bias", rule if bias_rule is None else bias_rule),
    )


def _scalar(ours: str, theirs: str, width: str) -> Iterator[_Entry]:
    yield from _linear(f"times.{ours}.linear_1", f"{width} S", f"{theirs}.mlp.0")
    yield from _linear(f"times.{ours}.linear_2", f"{width} {width}", f"{theirs}.mlp.2")


def _attention(ours: str, theirs: str, network: STDiTConfig) -> Iterator[_Entry]:
    yield from _linear(f"{ours}.linear_qkv", "3D D", f"{theirs}.qkv", QkvThirds())
    yield from _linear(f"{ours}.linear_proj", "D D", f"{theirs}.proj")
    if network.qk_norm:
        yield _Entry(f"{ours}.q_layernorm.weight", "R", f"{theirs}.q_norm.weight")
        yield _Entry(f"{ours}.k_layernorm.weight", "R", f"{theirs}.k_norm.weight")


def _texts_and_mlp(ours: str, theirs: str) -> Iterator[_Entry]:
    yield from _linear(f"{ours}.cross_attention.linear_q", "D D", f"{theirs}.cross_attn.q_linear")
    yield from _linear(f"{ours}.cross_attention.kv.0.linear", "2D D", f"{theirs}.cross_attn.kv_linear", Halves())
    yield from _linear(f"{ours}.cross_attention.linear_proj", "D D", f"{theirs}.cross_attn.proj")
    yield from _linear(f"{ours}.mlp.linear_fc1", "4D D", f"{theirs}.mlp.fc1")
    yield from _linear(f"{ours}.mlp.linear_fc2", "D 4D", f"{theirs}.mlp.fc2")
    yield _Entry(f"{ours}.modulation.table", "1 6 D", f"{theirs}.scale_shift_table", OneKind())


def _entries(network: STDiTConfig) -> Iterator[_Entry]:
    """The tensors that a network has."""
    yield from _linear("patch_proj", "D P", "x_embedder.proj", PatchConvolution3d(), _SAME)
    yield from _scalar("time", "t_embedder", "D")
    yield from _scalar("fps", "fps_embedder", "D")
    yield from _linear("times.vectors", "6D D", "t_block.1")
    yield _Entry(NULL_TEXT, "L E", "y_embedder.y_embedding")
    yield from _linear("text_projection.linear_1", "D E", "y_embedder.y_proj.fc1")
    yield from _linear("text_projection.linear_2", "D D", "y_embedder.y_proj.fc2")
    layer = "decoder.layers.*"
    if network.pairs:
        for part in ("spatial", "temporal"):
            theirs = f"{part}_blocks.*"
            yield from _attention(f"{layer}.{part}.self_attention", f"{theirs}.attn", network)
            yield from _texts_and_mlp(f"{layer}.{part}", theirs)
    else:
        yield from _scalar("side", "csize_embedder", "C")
        yield from _scalar("ratio", "ar_embedder", "C")
        yield from _scalar("frames", "fl_embedder", "D")
        yield from _linear("times.temporal_vectors", "3D D", "t_block_temp.1")
        yield from _attention(f"{layer}.self_attention", "blocks.*.attn", network)
        yield from _attention(f"{layer}.temporal_attention", "blocks.*.attn_temp", network)
        yield from _texts_and_mlp(layer, "blocks.*")
        yield _Entry(f"{layer}.temporal_modulation.table", "1 3 D", "blocks.*.scale_shift_table_temporal", OneKind())
    yield _Entry("final_modulation.table", "1 2 D", "final_layer.scale_shift_table", OneKind())
    yield from _linear("proj", "O D", "final_layer.linear")


def sizes(network: STDiTConfig) -> dict[str, int]:
    """What the letters of the table's shapes stand for."""
    patch = network.patch_size**2
    return {
        "D": network.hidden_size,
        "C": network.hidden_size // 3,
        "E": network.text_width,
        "L": network.text_length,
        "S": 256,
        "P": network.in_channels * patch,
        "O": network.out_channels * patch,
        "R": network.head_dim,
    }


def opensora_rows(network: STDiTConfig) -> list[Row]:
    """The table for one network and Open-Sora."""
    rows = [
        Row(e.ours, (e.theirs,), e.rule, tuple(e.shape.split()), learned=e.ours != NULL_TEXT)
        for e in _entries(network)
    ]
    return expand(rows, network.num_layers)


def our_rows(network: STDiTConfig) -> list[Row]:
    """The network's own tensors."""
    rows = [
        Row(e.ours, (e.ours,), _SAME, tuple(e.shape.split()), learned=e.ours != NULL_TEXT) for e in _entries(network)
    ]
    return expand(rows, network.num_layers)


_NORMAL = {
    "stdit2": ("times.time.", "times.vectors.", "times.temporal_vectors.", "text_projection."),
    "stdit3": ("times.fps.linear_1.",),
}
"""Weights of standard deviation 0.02."""
_ZERO = {
    "stdit2": ("cross_attention.linear_proj.", "temporal_attention.linear_proj.", "proj."),
    "stdit3": (
        "times.fps.linear_2.",
        "temporal.self_attention.linear_proj.",
        "temporal.cross_attention.linear_proj.",
        "temporal.mlp.linear_fc2.",
    ),
}
"""Maps that start as zeros. Names of layers begin after their number."""


def initial_rules(network: STDiTConfig) -> Callable[[str], init.Rule]:
    """Initial values of our parameters by name, as Open-Sora's: Xavier where nothing else is said."""
    letters = sizes(network)
    shapes = {row.ours: row.our_shape(letters) for row in our_rows(network)}

    def rule(name: str) -> init.Rule:
        place = name.split(".", 3)[3] if name.startswith("decoder.") else name
        if name.endswith(".table"):
            return init.normal(1 / math.sqrt(network.hidden_size))
        if "layernorm" in name:
            return init.constant(1.0)
        if name == "patch_proj.bias":  # torch's default of a convolution
            return init.uniform(1 / math.sqrt(network.in_channels * network.patch_size**2))
        if name.endswith(".bias") or place.startswith(_ZERO[network.variant]):
            return init.constant(0.0)
        if place.startswith(_NORMAL[network.variant]):
            return init.normal(0.02)
        rows, columns = shapes[name]
        return init.xavier_uniform(columns, rows)

    return rule

"""Names and layouts of CogVideoX's weights outside vidtron.

One entry a tensor: our name and shape, where SAT's files keep it (after `model.diffusion_model.`) and where diffusers'
do. `*` stands for the number of a layer. Sources: the state dicts of SAT's network and of
diffusers.CogVideoXTransformer3DModel.
"""

from dataclasses import dataclass

from vidtron.models.cogvideox.config import CogVideoXConfig
from vidtron.models.layers.checkpoint_rules import (
    Blocks,
    LeadingOne,
    OnEveryRank,
    PatchConvolution,
    QkvSeparate,
    QkvThirds,
    RankSplit,
    Row,
    Rule,
    Same,
    SplitAlong,
    expand,
)

POSITIONS = "embedding.positions"
OFS_EMBEDDING = "ofs_embedding"
_SAME, _WHOLE = Same(), OnEveryRank()


@dataclass(frozen=True)
class _Entry:
    ours: str
    shape: str
    """D hidden width, E time embedding, X text width, P inputs and O outputs of a patch, R head, M all tokens."""
    sat: str
    diffusers: tuple[str, ...]
    sat_rule: Rule = _SAME
    diffusers_rule: Rule = _SAME
    ranks: RankSplit = _WHOLE
    """How SAT's model-parallel ranks share it."""


def _pair(
    ours: str,
    shape: str,
    sat: str,
    *diffusers: str,
    rules: tuple[Rule, Rule] = (_SAME, _SAME),
    bias_rules: tuple[Rule, Rule] = (_SAME, _SAME),
    ranks: tuple[RankSplit, RankSplit] = (_WHOLE, _WHOLE),
) -> tuple[_Entry, _Entry]:
    """Weight and bias of a module; the bias has the weight's first dimension."""

    def entry(kind: str, shape: str, rules: tuple[Rule, Rule], ranks: RankSplit) -> _Entry:
        theirs = tuple(f"{name}.{kind}" for name in diffusers)
        return _Entry(f"{ours}.{kind}", shape, f"{sat}.{kind}", theirs, *rules, ranks)

    return entry("weight", shape, rules, ranks[0]), entry("bias", shape.split()[0], bias_rules, ranks[1])


_LAYER, _SAT_LAYER, _BLOCK = "decoder.layers.*", "transformer.layers.*", "transformer_blocks.*"
_ATTENTION = f"{_LAYER}.self_attention"
_QKV_RULES = (QkvThirds(), QkvSeparate())
# diffusers has a linear layer before the attention and one before the MLP: shift, scale and gate of video, then text.
_MODULATION_RULES = (_SAME, Blocks(((0, 1, 2, 6, 7, 8), (3, 4, 5, 9, 10, 11))))
_ROWS_SPLIT = (SplitAlong(0), SplitAlong(0))
_COLUMNS_SPLIT = (SplitAlong(1), _WHOLE)
_THIRDS_SPLIT = (SplitAlong(0, sections=3), SplitAlong(0, sections=3))

_TABLE: tuple[_Entry, ...] = (
    *_pair("time_embedding.linear_1", "E D", "time_embed.0", "time_embedding.linear_1"),
    *_pair("time_embedding.linear_2", "E E", "time_embed.2", "time_embedding.linear_2"),
    *_pair("ofs_embedding.linear_1", "E E", "ofs_embed.0", "ofs_embedding.linear_1"),
    *_pair("ofs_embedding.linear_2", "E E", "ofs_embed.2", "ofs_embedding.linear_2"),
    *_pair(
        "embedding.patch_proj",
        "D P",
        "mixins.patch_embed.proj",
        "patch_embed.proj",
        rules=(PatchConvolution(), PatchConvolution()),
    ),
    *_pair("embedding.text_proj", "D X", "mixins.patch_embed.text_proj", "patch_embed.text_proj"),
    _Entry(
        POSITIONS,
        "M D",
        "mixins.pos_embed.pos_embedding",
        ("patch_embed.pos_embedding",),
        LeadingOne(),
        LeadingOne(),
    ),
    *_pair(f"{_LAYER}.input_layernorm", "D", f"{_SAT_LAYER}.input_layernorm", f"{_BLOCK}.norm1.norm"),
    *_pair(f"{_LAYER}.pre_mlp_layernorm", "D", f"{_SAT_LAYER}.post_attention_layernorm", f"{_BLOCK}.norm2.norm"),
    *_pair(
        f"{_ATTENTION}.linear_qkv",
        "3D D",
        f"{_SAT_LAYER}.attention.query_key_value",
        *(f"{_BLOCK}.attn1.{name}" for name in ("to_q", "to_k", "to_v")),
        rules=_QKV_RULES,
        bias_rules=_QKV_RULES,
        ranks=_THIRDS_SPLIT,
    ),
    *_pair(
        f"{_ATTENTION}.linear_proj",
        "D D",
        f"{_SAT_LAYER}.attention.dense",
        f"{_BLOCK}.attn1.to_out.0",
        ranks=_COLUMNS_SPLIT,
    ),
    *_pair(f"{_ATTENTION}.q_layernorm", "R", "mixins.adaln_layer.query_layernorm_list.*", f"{_BLOCK}.attn1.norm_q"),
    *_pair(f"{_ATTENTION}.k_layernorm", "R", "mixins.adaln_layer.key_layernorm_list.*", f"{_BLOCK}.attn1.norm_k"),
    *_pair(
        f"{_LAYER}.mlp.linear_fc1",
        "4D D",
        f"{_SAT_LAYER}.mlp.dense_h_to_4h",
        f"{_BLOCK}.ff.net.0.proj",
        ranks=_ROWS_SPLIT,
    ),
    *_pair(
        f"{_LAYER}.mlp.linear_fc2",
        "D 4D",
        f"{_SAT_LAYER}.mlp.dense_4h_to_h",
        f"{_BLOCK}.ff.net.2",
        ranks=_COLUMNS_SPLIT,
    ),
    *_pair(
        f"{_LAYER}.modulation.linear",
        "12D E",
        "mixins.adaln_layer.adaLN_modulations.*.1",
        f"{_BLOCK}.norm1.linear",
        f"{_BLOCK}.norm2.linear",
        rules=_MODULATION_RULES,
        bias_rules=_MODULATION_RULES,
    ),
    *_pair("decoder.final_layernorm", "D", "transformer.final_layernorm", "norm_final"),
    *_pair("final.norm", "D", "mixins.final_layer.norm_final", "norm_out.norm"),
    *_pair("final.modulation.linear", "2D E", "mixins.final_layer.adaLN_modulation.1", "norm_out.linear"),
    *_pair("final.proj", "O D", "mixins.final_layer.linear", "proj_out"),
)

POS_EMBEDDING = "mixins.pos_embed.pos_embedding"
FREQS = ("mixins.pos_embed.freqs_sin", "mixins.pos_embed.freqs_cos")
UNUSED_POSITIONS = "transformer.position_embeddings.weight"
SAT_TABLES = (*FREQS, UNUSED_POSITIONS)
"""Tensors of SAT files that are never learned; `pos_embedding` is, where the network has a learned table."""
UNUSED_POSITIONS_ROWS = 64
"""Rows of the leftover table: `max_sequence_length` in upstream's configurations."""

SIZE_NAMES = {
    "D": "hidden size",
    "R": "width of an attention head",
    "E": "width of the time embedding",
    "X": "width of the text embeddings",
    "P": "inputs of a patch",
    "O": "outputs of a patch",
    "M": "rows of the learned position table",
}
"""What messages call the letters of the shapes."""


def sizes(network: CogVideoXConfig) -> dict[str, int]:
    """Values of the letters in the table's shapes."""
    patch = network.patch_size_t * network.patch_size**2
    tokens = network.text_length
    if network.learned_position_grid is not None:
        t, h, w = network.learned_position_grid
        tokens += t * h * w
    return {
        "D": network.hidden_size,
        "E": network.time_embed_dim,
        "X": network.text_width,
        "P": network.in_channels * patch,
        "O": network.out_channels * patch,
        "R": network.head_dim,
        "M": tokens,
    }


def _entries(network: CogVideoXConfig) -> list[_Entry]:
    """The tensors that a network has."""
    absent = [] if network.ofs_embedding else [OFS_EMBEDDING]
    if network.learned_position_grid is None:
        absent.append(POSITIONS)
    return [entry for entry in _TABLE if not entry.ours.startswith(tuple(absent))]


def sat_rows(network: CogVideoXConfig, *, flat_patches: bool = False) -> list[Row]:
    """The table for one network and SAT.

    Args:
        network: its layers, and only the tensors it has.
        flat_patches: the patch weight is a linear layer's, as the code for CogVideoX 1.5 has it, whatever the patch.
    """

    def rule(entry: _Entry) -> Rule:
        return _SAME if flat_patches and isinstance(entry.sat_rule, PatchConvolution) else entry.sat_rule

    rows = [Row(e.ours, (e.sat,), rule(e), tuple(e.shape.split()), e.ranks) for e in _entries(network)]
    return expand(rows, network.num_layers)


def diffusers_rows(network: CogVideoXConfig) -> list[Row]:
    """The table for one network and diffusers."""
    rows = [Row(e.ours, e.diffusers, e.diffusers_rule, tuple(e.shape.split())) for e in _entries(network)]
    return expand(rows, network.num_layers)


def our_rows(network: CogVideoXConfig) -> list[Row]:
    """Table rows of the network's own tensors, without another format's names."""
    rows = [Row(e.ours, (e.ours,), _SAME, tuple(e.shape.split())) for e in _entries(network)]
    return expand(rows, network.num_layers)

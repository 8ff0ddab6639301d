"""Names and layouts of CogVideoX's weights outside vidtron.

One row a tensor: our name, the name in SAT's files (after `model.diffusion_model.`), and the rule between the two
layouts. `*` stands for the number of a layer. Source: the SAT network's state dict.
"""

from vidtron.models.cogvideox.config import CogVideoXConfig
from vidtron.models.layers.checkpoint_rules import (
    LeadingOne,
    PatchConvolution,
    QkvPerHead,
    Row,
    Rule,
    Same,
    expand,
)


def _pair(ours: str, sat: str, weight_rule: Rule | None = None) -> list[Row]:
    return [
        Row(f"{ours}.weight", f"{sat}.weight", weight_rule or Same()),
        Row(f"{ours}.bias", f"{sat}.bias", Same()),
    ]


_LAYER, _SAT_LAYER = "decoder.layers.*", "transformer.layers.*"

_ROWS: tuple[Row, ...] = (
    *_pair("time_embedding.linear_1", "time_embed.0"),
    *_pair("time_embedding.linear_2", "time_embed.2"),
    *_pair("ofs_embedding.linear_1", "ofs_embed.0"),
    *_pair("ofs_embedding.linear_2", "ofs_embed.2"),
    *_pair("embedding.patch_proj", "mixins.patch_embed.proj", PatchConvolution()),
    *_pair("embedding.text_proj", "mixins.patch_embed.text_proj"),
    Row("embedding.positions", "mixins.pos_embed.pos_embedding", LeadingOne()),
    *_pair(f"{_LAYER}.input_layernorm", f"{_SAT_LAYER}.input_layernorm"),
    *_pair(f"{_LAYER}.pre_mlp_layernorm", f"{_SAT_LAYER}.post_attention_layernorm"),
    Row(f"{_LAYER}.self_attention.linear_qkv.weight", f"{_SAT_LAYER}.attention.query_key_value.weight", QkvPerHead()),
    Row(f"{_LAYER}.self_attention.linear_qkv.bias", f"{_SAT_LAYER}.attention.query_key_value.bias", QkvPerHead()),
    *_pair(f"{_LAYER}.self_attention.linear_proj", f"{_SAT_LAYER}.attention.dense"),
    *_pair(f"{_LAYER}.self_attention.q_layernorm", "mixins.adaln_layer.query_layernorm_list.*"),
    *_pair(f"{_LAYER}.self_attention.k_layernorm", "mixins.adaln_layer.key_layernorm_list.*"),
    *_pair(f"{_LAYER}.mlp.linear_fc1", f"{_SAT_LAYER}.mlp.dense_h_to_4h"),
    *_pair(f"{_LAYER}.mlp.linear_fc2", f"{_SAT_LAYER}.mlp.dense_4h_to_h"),
    *_pair(f"{_LAYER}.modulation.linear", "mixins.adaln_layer.adaLN_modulations.*.1"),
    *_pair("decoder.final_layernorm", "transformer.final_layernorm"),
    *_pair("final.norm", "mixins.final_layer.norm_final"),
    *_pair("final.modulation.linear", "mixins.final_layer.adaLN_modulation.1"),
    *_pair("final.proj", "mixins.final_layer.linear"),
)

SAT_TABLES = (
    "mixins.pos_embed.freqs_sin",
    "mixins.pos_embed.freqs_cos",
    "transformer.position_embeddings.weight",
)
"""Tensors of SAT files that are never learned; `pos_embedding` is, where the network has a learned table."""


def sat_rows(network: CogVideoXConfig) -> list[Row]:
    """The table for one network: its layers, and only the tensors it has."""
    absent = [] if network.ofs_embedding else ["ofs_embedding"]
    if network.learned_position_grid is None:
        absent.append("embedding.positions")
    rows = [row for row in _ROWS if not row.ours.startswith(tuple(absent))]
    return expand(rows, network.num_layers)

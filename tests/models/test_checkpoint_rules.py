"""Both directions of every layout rule."""

import dataclasses

import pytest
import torch

from tests.reference.cogvideox_oracle import NETWORKS, VARIANTS, sat_state
from vidtron.models.cogvideox.checkpoint_names import sat_rows
from vidtron.models.layers.checkpoint_rules import QkvPerHead, to_ours


@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_cover_upstreams_file_and_invert(variant):
    network, state = NETWORKS[variant], sat_state(variant)
    rows = sat_rows(network)
    ours = to_ours(rows, state, network)
    for row in rows:
        assert torch.equal(row.rule.to_theirs(ours[row.ours], network), state[row.theirs]), row


def test_qkv_puts_each_heads_three_parts_together():
    network = dataclasses.replace(NETWORKS["2b"], num_attention_heads=2)
    theirs = torch.arange(12)[:, None]  # q of two heads of two rows, then k, then v
    assert QkvPerHead().to_ours(theirs, network).flatten().tolist() == [0, 1, 4, 5, 8, 9, 2, 3, 6, 7, 10, 11]


def test_missing_and_unknown_tensors_are_all_named():
    network, state = NETWORKS["2b"], sat_state("2b")
    del state["time_embed.0.bias"], state["transformer.final_layernorm.weight"]
    state["surprise"] = torch.zeros(1)
    with pytest.raises(KeyError, match=r"time_embed.0.bias, .*final_layernorm.weight; unknown: surprise"):
        to_ours(sat_rows(network), state, network)

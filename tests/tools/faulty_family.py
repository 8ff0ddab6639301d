"""A plugin for tests: the tiny CogVideoX, whose layer 1 goes wrong on one rank under tensor or context parallelism."""

import dataclasses
from typing import Any

from vidtron.config.run import RunConfig
from vidtron.models.cogvideox import REGISTRATION as COGVIDEOX
from vidtron.models.cogvideox.family import CogVideoXFamily
from vidtron.models.registration import Registration
from vidtron.parallel import Groups

TINY = COGVIDEOX.presets["cogvideox-tiny"]
NETWORK = dataclasses.replace(
    TINY.network, num_layers=2, hidden_size=32, num_attention_heads=2, time_embed_dim=32, text_length=6, text_width=16
)
REGISTRATION = Registration({"faulty-tiny": dataclasses.replace(TINY, network=NETWORK)}, "faulty_family:FAMILY")
BAD_OUTPUT, BAD_GRADIENT = "decoder.layers.1", "self_attention.q_layernorm.weight"


class FaultyFamily(CogVideoXFamily):
    """The last tensor-parallel rank changes the output of layer 1, the last context-parallel one a gradient of it."""

    def build(self, run: RunConfig, groups: Groups, **place: Any) -> Any:
        """As CogVideoX, with the fault."""
        chunk = super().build(run, groups, **place)
        for layer in chunk.decoder.layers:
            if layer.layer_number != 2:
                continue
            if groups.tp.rank() == 1:
                layer.register_forward_hook(lambda module, arguments, output: output * 1.01)
            if groups.cp.rank() == 1:
                layer.get_parameter(BAD_GRADIENT).register_hook(lambda gradient: gradient * 1.5)
        return chunk


FAMILY = FaultyFamily()

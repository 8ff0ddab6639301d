"""Weights of any format into a rank's part of a model."""

from collections.abc import Sequence
from typing import Any

import torch

from vidtron.checkpoint.formats import WeightSource
from vidtron.checkpoint.state import bare
from vidtron.models.layers.initialization import global_names, own_part
from vidtron.models.layers.lora import is_adapter
from vidtron.parallel import Groups


@torch.no_grad()
def load_weights(source: WeightSource, chunks: Sequence[Any], groups: Groups) -> None:
    """Fill this rank's parameters but the adapters'; only the tensors of its own layers are read, one at a time.

    Args:
        source: of the same network.
        chunks: this rank's model chunks, wrapped or bare.
        groups: the run's process groups.
    """
    for chunk in chunks:
        for named in global_names(bare(chunk)):
            if is_adapter(named.name):
                continue
            named.parameter.copy_(own_part(source.read(named.name), named.parameter, groups.tp))

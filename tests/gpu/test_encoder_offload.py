"""Encoders whose weights wait in the CPU's memory, on a GPU."""

import pytest
import torch

from vidtron.encoders.frozen import FrozenNetwork

pytestmark = pytest.mark.gpu


def test_offloaded_weights_take_device_memory_only_while_in_use() -> None:
    layer = torch.nn.Linear(1024, 1024)
    rows = torch.ones(2, 1024, device="cuda")
    expected = layer.cuda()(rows).detach()
    before = torch.cuda.memory_allocated()
    network = FrozenNetwork(layer, torch.device("cuda"), offload=True)
    assert layer.weight.is_pinned() and torch.cuda.memory_allocated() < before
    with network.in_use() as ready:
        assert ready.weight.is_cuda
        assert torch.equal(ready(rows), expected)
    assert not layer.weight.is_cuda

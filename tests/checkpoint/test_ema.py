import math
import random

import pytest
import torch

from vidtron.checkpoint.ema import boxes
from vidtron.checkpoint.ema_names import ema_key, ema_of_key


@pytest.mark.parametrize("shape", [(), (7,), (3, 4), (2, 3, 4), (4, 1, 3), (1, 5), (2, 2, 2, 3)])
def test_boxes_are_the_run(shape):
    """Every run of a tensor's elements: the boxes hold them, in order, and no others."""
    size = math.prod(shape)
    tensor = torch.arange(size).view(shape)
    for first in range(size + 1):
        for stop in range(first, size + 1):
            parts = []
            for offsets, extents in boxes(first, stop, shape):
                place = tuple(slice(a, a + n) for a, n in zip(offsets, extents, strict=True))
                assert tensor[place].shape == extents
                parts += tensor[place].flatten().tolist()
            assert parts == list(range(first, stop))


def test_boxes_are_few():
    generator = random.Random(1)
    for _ in range(200):
        first, stop = sorted(generator.sample(range(3072 * 3072), 2))
        assert 1 <= len(list(boxes(first, stop, (3072, 3072)))) <= 3


@pytest.mark.parametrize("average", ["0.9999", "0.5", "1e-05", "power_0.05", "power_0.1"])
@pytest.mark.parametrize("weight", ["embedding.proj.weight", "decoder.layers.7.mlp.bias", "e1.w", "_x"])
def test_names(average, weight):
    assert ema_of_key(ema_key(average, weight)) == average


@pytest.mark.parametrize("key", ["decoder.layers.0.bias", "optimizer.state.exp_avg.ema.w", "ema.weight", "emap.0.9.w"])
def test_other_tensors_are_no_averages(key):
    assert ema_of_key(key) is None

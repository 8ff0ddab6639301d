"""Batches that are made ahead on a stream of their own are those that are made between the steps."""

import pytest

from tests.training.small import small_run
from vidtron import training
from vidtron.config.world import World

pytestmark = pytest.mark.gpu


def losses(shards, **flags):
    run = small_run(shards, train_iters=6, **flags)
    return training.run(run, World(size=1, rank=0, local_rank=0, has_cuda=True)).losses


@pytest.mark.parametrize("ahead", [1, 3])
def test_encoding_ahead_changes_nothing(shards, ahead):
    expected = losses(shards, encode_ahead=0, num_workers=0)
    assert losses(shards, encode_ahead=ahead, num_workers=2) == pytest.approx(expected, rel=1e-6)


def test_nvdec_in_the_training_process(shards):
    expected = losses(shards, decoder="dali", num_workers=0)
    assert losses(shards, decoder="dali", num_workers=2) == pytest.approx(expected, rel=1e-6)

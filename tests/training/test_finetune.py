"""`--finetune` takes the weights of another run and nothing else of it."""

import pytest
import torch

from tests.shards import write_shards
from tests.training.small import small_run
from vidtron import training
from vidtron.checkpoint import latest, read_full_state
from vidtron.config.world import World

WORLD = World(size=1, rank=0, local_rank=0, has_cuda=False)


@pytest.fixture(scope="module")
def first(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("first") / "run"
    training.run(small_run(shards, save=folder, train_iters=2, lr=1e-2), WORLD)
    return folder


@pytest.mark.parametrize(
    "flags",
    [{}, {"bf16": True}, {"bf16": True, "use_distributed_optimizer": True}, {"optimizer": "sgd"}],
    ids=["fp32", "bf16", "bf16 distributed", "sgd"],
)
def test_the_weights_and_nothing_else(first, tmp_path, flags):
    """On other data, with another optimizer. A step without a learning rate writes the optimizer's weights back."""
    run = small_run(
        write_shards(tmp_path / "data", clips=3, first_seed=50),
        load=first,
        finetune=True,
        save=tmp_path / "run",
        train_iters=1,
        **{"lr": 0.0, **flags},
    )
    assert training.check(run, WORLD) == []
    result = training.run(run, WORLD)
    assert (result.iteration, result.consumed_samples) == (1, 2)
    before, after = read_full_state(latest(first)), read_full_state(latest(tmp_path / "run"))
    assert before.keys() == after.keys()
    for name, weight in before.items():
        assert torch.equal(after[name], weight.to(after[name].dtype)), name


def test_another_network_is_refused(first, shards, tmp_path):
    wider = small_run(shards, load=first, finetune=True, hidden_size=48, num_attention_heads=3, train_iters=1)
    with pytest.raises(RuntimeError, match="tensors differ; accepted: the same model"):
        training.run(wider, WORLD)

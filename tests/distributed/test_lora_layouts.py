"""Training adapters gives the same losses and weights under every layout, and leaves everything else as it was."""

import pytest
import torch

from tests.distributed.layouts import LAYOUTS, Layout, small_run, train
from vidtron.checkpoint import latest, read_full_state
from vidtron.models.layers.lora import is_adapter

LORA = {
    "lora_rank": 3,
    "lora_alpha": 6.0,
    "lora_dropout": 0.25,
    "lora_target_modules": ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "norm1.linear"],
    "lr": 1e-2,
}
RECOMPUTE = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
CASES = {
    "TP2+SP recomputed": (LAYOUTS["TP2+SP"], RECOMPUTE),
    "PP2": (LAYOUTS["PP2"], {"micro_batch_size": 2}),
    "DP2 overlapped": (LAYOUTS["DP2 overlapped"], {}),
    "TP2 x CP2": (Layout(4, {"tensor_model_parallel_size": 2, "context_parallel_size": 2}), {}),
}
"""The first three with the distributed optimizer."""


@pytest.fixture(scope="module")
def one_rank(pool, shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    return run_layout(pool, shards, folder, Layout(1, {}), {}, save_interval=1)


def run_layout(pool, shards, folder, layout, flags, **more):
    """Train; gives rank 0's result, the weights after the first step (if saved) and at the end."""
    run = small_run(shards, save=folder / "run", **{**layout.flags, **LORA, **flags, **more})
    result = pool.run(train, layout.ranks, run)[0]
    first = folder / "run" / "iter_0000001"
    return result, read_full_state(first) if first.exists() else {}, read_full_state(latest(folder / "run"))


@pytest.mark.parametrize("case", CASES)
def test_parity(pool, shards, tmp_path, one_rank, case):
    expected, _, final = one_rank
    layout, flags = CASES[case]
    result, _, weights = run_layout(pool, shards, tmp_path, layout, flags)
    assert result.losses == pytest.approx(expected.losses, rel=1e-5)
    assert result.gradient_norms == pytest.approx(expected.gradient_norms, rel=1e-4)
    assert weights.keys() == final.keys()
    for name, weight in weights.items():
        if is_adapter(name):
            # Adam makes a full step of a gradient that is rounding noise; few elements have one.
            assert (weight - final[name]).norm() < 1e-2 * final[name].norm(), name
        else:
            assert torch.equal(weight, final[name]), name


def test_only_adapters_are_trained(one_rank):
    _, first, final = one_rank
    adapters = [name for name in final if is_adapter(name)]
    assert len(adapters) == 4 * 7 * 2
    assert all(not torch.equal(first[name], final[name]) for name in adapters)
    assert all(torch.equal(first[name], final[name]) for name in final if not is_adapter(name))


def test_dropout_changes_the_numbers(pool, shards, one_rank):
    result = pool.run(train, 1, small_run(shards, **{**LORA, "lora_dropout": 0.0}))[0]
    assert result.losses[0] == pytest.approx(one_rank[0].losses[0], rel=1e-6)  # B is zero
    assert result.losses[2] != pytest.approx(one_rank[0].losses[2], rel=1e-5)

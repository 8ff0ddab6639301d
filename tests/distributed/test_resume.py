"""A run that stops and goes on with other layouts and other numbers of ranks continues as if nothing had happened."""

import json

import pytest

from tests.distributed.layouts import small_run, train
from vidtron.checkpoint import completed

LAYOUTS = {
    "TP2+SP": (2, {"tensor_model_parallel_size": 2, "sequence_parallel": True}),
    "TP2": (2, {"tensor_model_parallel_size": 2}),
    "PP2 x DP2": (4, {"pipeline_model_parallel_size": 2}),
    "PP2 interleaved": (2, {"pipeline_model_parallel_size": 2, "num_layers_per_virtual_pipeline_stage": 1}),
    "CP2": (2, {"context_parallel_size": 2}),
    "DP2 overlapped": (2, {"overlap_grad_reduce": True, "overlap_param_gather": True}),
    "1": (1, {}),
}
STEPS = 6
LEAVE_AFTER = 2
"""Each layout trains so many steps."""

WAYS = {
    "TP2 to PP2 x DP2 to 1": (["TP2", "PP2 x DP2", "1"], {}),
    "distributed optimizer": (["TP2+SP", "PP2 x DP2", "1"], {"use_distributed_optimizer": True}),
    "overlapped to interleaved to CP2": (
        ["DP2 overlapped", "PP2 interleaved", "CP2"],
        {"use_distributed_optimizer": True},
    ),
    "saved in the background": (["PP2 interleaved", "TP2+SP", "1"], {"async_save": True}),
}


@pytest.fixture(scope="module")
def schedule():
    """What makes a step depend on its number: warm-up, decay, dropout."""
    return {"train_iters": STEPS, "lr_warmup_iters": 1, "lr_decay_style": "linear", "text_dropout": 0.3}


@pytest.fixture(scope="module")
def uninterrupted(pool, shards, schedule):
    return pool.run(train, 1, small_run(shards, **schedule))[0]


@pytest.mark.parametrize("way", WAYS)
def test_losses_go_on(pool, shards, tmp_path, schedule, uninterrupted, way):
    layouts, flags = WAYS[way]
    losses, norms = [], []
    for name in layouts:
        ranks, layout = LAYOUTS[name]
        run = small_run(
            shards, save=tmp_path, load=tmp_path, exit_interval=LEAVE_AFTER, **schedule, **{**flags, **layout}
        )
        results = pool.run(train, ranks, run)
        assert len(results[0].losses) == LEAVE_AFTER
        assert all(result.losses == results[0].losses for result in results)
        losses += results[0].losses
        norms += results[0].gradient_norms
    assert losses == pytest.approx(uninterrupted.losses, rel=1e-5)
    assert norms == pytest.approx(uninterrupted.gradient_norms, rel=1e-4)
    assert len(set(uninterrupted.losses)) == STEPS

    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["loss"] for row in rows] == losses
    assert [path.name for path in completed(tmp_path)] == [f"iter_000000{n}" for n in (2, 4, 6)]


def test_another_batch_size_goes_on_where_the_samples_ended(pool, shards, tmp_path):
    """Half the global batch: the next step takes the next samples, none twice and none left out."""
    run = small_run(shards, save=tmp_path, train_iters=2, global_batch_size=4)
    assert pool.run(train, 1, run)[0].consumed_samples == 8
    run = small_run(shards, save=tmp_path, load=tmp_path, train_iters=4, global_batch_size=2)
    assert pool.run(train, 2, run)[0].consumed_samples == 12

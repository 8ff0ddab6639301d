"""Frozen weights stay, all others train as on one rank; checkpoints of adapters alone go on from their base."""

import fnmatch
import shutil

import pytest
import torch

from tests.distributed.layouts import LAYOUTS, Layout, small_run, train
from tests.distributed.rank_pool import RankFailure
from vidtron import checkpoint
from vidtron.checkpoint import latest, read_full_state, read_state
from vidtron.models.layers.lora import is_adapter

FLAGS = {"lr": 1e-2, "train_iters": 4, "use_distributed_optimizer": True}
FREEZING = {
    # The first stage of two has nothing to train.
    "one module": ({"train_only": ["final.*", "decoder.layers.3.mlp.*"]}, ["final.*", "decoder.layers.3.mlp.*"], []),
    # mcore's linear maps give the bias of a frozen weight no gradient.
    "biases": ({"train_only": ["*.bias"]}, ["*.bias"], []),
    "freeze": (
        {"freeze": ["*embedding*", "decoder.layers.[01].*"], "use_distributed_optimizer": False},
        ["*"],
        ["*embedding*", "decoder.layers.[01].*"],
    ),
}
LORA = {"lora_rank": 2, "save_lora_only": True}


def run_once(pool, shards, folder, layout: Layout, **flags):
    run = small_run(shards, save=folder, **{**layout.flags, **FLAGS, **flags})
    return pool.run(train, layout.ranks, run)[0]


@pytest.mark.parametrize("case", FREEZING)
def test_patterns(pool, shards, tmp_path, case):
    flags, chosen, left_out = FREEZING[case]
    expected = run_once(pool, shards, tmp_path / "one", Layout(1, {}), save_interval=1, **flags)
    first, final = (read_full_state(tmp_path / "one" / f"iter_000000{n}") for n in (1, 4))

    def is_trained(name):
        return any(fnmatch.fnmatchcase(name, p) for p in chosen) and not any(
            fnmatch.fnmatchcase(name, p) for p in left_out
        )

    trained = [name for name in final if is_trained(name)]
    assert 0 < len(trained) < len(final)
    for name in final:
        assert torch.equal(first[name], final[name]) != (name in trained), name

    for number, layout in enumerate((LAYOUTS["PP2"], LAYOUTS["TP2+SP"])):
        folder = tmp_path / str(number)
        resumed = {"load": folder, "exit_interval": 2} if number == 0 else {}
        result = run_once(pool, shards, folder, layout, **flags, **resumed)
        losses, norms = result.losses, result.gradient_norms
        if resumed:
            again = run_once(pool, shards, folder, layout, **flags, **resumed)
            losses, norms = losses + again.losses, norms + again.gradient_norms
        assert losses == pytest.approx(expected.losses, rel=1e-5)
        assert norms == pytest.approx(expected.gradient_norms, rel=1e-4)
        weights = read_full_state(latest(folder))
        for name in final:
            if name in trained:
                assert (weights[name] - final[name]).norm() < 1e-3 * final[name].norm() + 1e-6, name
            else:
                assert torch.equal(weights[name], final[name]), name


@pytest.fixture(scope="module")
def base(pool, shards, tmp_path_factory):
    """A run of two steps whose weights the adapters are trained on."""
    folder = tmp_path_factory.mktemp("base")
    run_once(pool, shards, folder / "run", Layout(1, {}), train_iters=2)
    return latest(folder / "run")


def test_adapters_alone(pool, shards, tmp_path, base):
    expected = run_once(pool, shards, tmp_path / "whole", Layout(1, {}), load=base, finetune=True, lora_rank=2)
    assert len(expected.losses) == 4

    moved, folder = tmp_path / base.name, tmp_path / "run"
    shutil.copytree(base, moved)
    shared = {"exit_interval": 2, **LORA}
    losses = run_once(pool, shards, folder, LAYOUTS["TP2+SP"], **shared, load=moved, finetune=True).losses
    saved = latest(folder)
    stored = read_full_state(saved, optimizer=True)
    assert all(is_adapter(name) for name in stored)
    assert any(name.startswith("optimizer.") for name in stored)
    assert read_state(saved)["lora_base"]["path"] == str(moved)

    moved.rename(tmp_path / "iter_0000077")
    with pytest.raises(RankFailure, match=r"their base weights are not at .*; accepted: --lora-base"):
        run_once(pool, shards, folder, LAYOUTS["PP2"], **shared, load=folder)
    there = {"load": folder, "lora_base": tmp_path / "iter_0000077"}
    losses += run_once(pool, shards, folder, LAYOUTS["PP2"], **shared, **there).losses
    assert losses == pytest.approx(expected.losses, rel=1e-5)
    assert read_state(latest(folder))["lora_base"]["path"] == str(tmp_path / "iter_0000077")
    whole, alone = read_full_state(latest(tmp_path / "whole")), read_full_state(latest(folder))
    for name, weight in alone.items():
        assert (weight - whole[name]).norm() < 1e-2 * whole[name].norm(), name

    other = tmp_path / "other"
    run_once(pool, shards, other, Layout(1, {}), train_iters=1, seed=7)
    with pytest.raises(RankFailure, match=r"are not those its adapters were trained on; .* tensors differ: "):
        run_once(pool, shards, folder, Layout(1, {}), **shared, load=folder, lora_base=latest(other))


def test_adapters_alone_on_initial_weights(pool, shards, tmp_path):
    expected = run_once(pool, shards, tmp_path / "whole", Layout(1, {}), lora_rank=2)
    shared = {"load": tmp_path / "run", "exit_interval": 3, **LORA}
    losses = run_once(pool, shards, tmp_path / "run", Layout(1, {}), **shared).losses
    losses += run_once(pool, shards, tmp_path / "run", Layout(1, {}), **shared).losses
    assert losses == pytest.approx(expected.losses, rel=1e-6)
    with pytest.raises(RankFailure, match="the initial weights of this --seed are not those"):
        run_once(pool, shards, tmp_path / "run", Layout(1, {}), **shared, init_method_std=0.2)


def test_bf16_adapters_resume(pool, shards, tmp_path, base):
    """The frozen weights have no fp32 copies; those of the adapters come back with the checkpoint."""
    start = {"load": base, "finetune": True}
    expected = run_once(pool, shards, tmp_path / "whole", Layout(1, {}), lora_rank=2, bf16=True, **start)
    shared = {"exit_interval": 2, "bf16": True, **LORA}
    layout = LAYOUTS["DP2"]
    losses = run_once(pool, shards, tmp_path / "run", layout, **shared, **start).losses
    losses += run_once(pool, shards, tmp_path / "run", layout, **shared, load=tmp_path / "run").losses
    assert losses == pytest.approx(expected.losses, rel=2e-3)
    state = read_full_state(checkpoint.latest(tmp_path / "run"), optimizer=True)
    masters = [name for name in state if name.startswith("optimizer.state.param.")]
    assert masters
    assert all(is_adapter(name) for name in masters)


def test_averages_of_adapters_alone(pool, shards, tmp_path, base):
    """They go on with the adapters, on another layout, one of whose stages trains nothing."""
    flags = {"ema_decay": [0.5], "lora_rank": 2, "freeze": ["decoder.layers.[01].*"]}
    start = {"load": base, "finetune": True}
    run_once(pool, shards, tmp_path / "whole", Layout(1, {}), **flags, **start)
    shared = {**flags, **LORA, "exit_interval": 2}
    run_once(pool, shards, tmp_path / "run", LAYOUTS["TP2+SP"], **shared, **start)
    run_once(pool, shards, tmp_path / "run", LAYOUTS["PP2"], **shared, load=tmp_path / "run")
    whole, alone = latest(tmp_path / "whole"), latest(tmp_path / "run")
    (average,) = checkpoint.ema_names_in(alone)
    expected, averaged = (read_full_state(path, average=average) for path in (whole, alone))
    assert averaged
    assert all(is_adapter(name) for name in averaged)
    weights = read_full_state(alone)
    for name, values in averaged.items():
        assert (values - expected[name]).norm() < 1e-2 * expected[name].norm() + 1e-7, name
        assert torch.equal(values, weights[name]) == (name.split(".")[2] in "01"), name


@pytest.mark.parametrize("format", ["diffusers", "sat"])
def test_adapters_alone_on_weights_of_another_format(pool, shards, tmp_path, base, format):
    expected = run_once(pool, shards, tmp_path / "whole", Layout(1, {}), load=base, finetune=True, lora_rank=2)
    converted, folder = tmp_path / "converted", tmp_path / "run"
    checkpoint.convert(base, converted, save_format=format)
    shared = {"exit_interval": 2, **LORA}
    losses = run_once(pool, shards, folder, LAYOUTS["TP2+SP"], **shared, load=converted).losses
    assert read_state(latest(folder))["lora_base"]["path"] == str(converted)
    losses += run_once(pool, shards, folder, LAYOUTS["PP2"], **shared, load=folder).losses
    assert losses == pytest.approx(expected.losses, rel=1e-5)

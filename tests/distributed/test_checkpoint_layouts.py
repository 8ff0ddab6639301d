"""A run saved on one layout continues on any other as if it had not been interrupted."""

from pathlib import Path

import pytest
import torch

from tests.distributed.rank_pool import RankFailure, RankPool
from tests.distributed.toy import Layout, Toy
from vidtron import checkpoint
from vidtron.config.world import World
from vidtron.parallel import initialized

BEFORE, AFTER = 3, 3


def train_and_save(rank: int, layout: Layout, run_dir: Path, async_save: bool) -> list[tuple[float, float]]:
    """Losses and gradient norms of the steps after the save."""
    config = layout.run_config()
    with initialized(config, World.from_environment()) as groups:
        toy = Toy(layout, config, groups)
        toy.train(0, BEFORE)
        writer = checkpoint.CheckpointWriter(run_dir, groups, config_yaml="model: toy\n", async_save=async_save)
        state = {"iteration": BEFORE, "consumed_samples": 4 * BEFORE, "data": {"fingerprint": "abc"}}
        with toy.complete_weights():
            writer.save(BEFORE, toy.chunks, toy.optimizer, toy.scheduler, state)
        history = toy.train(BEFORE, AFTER)
        writer.maybe_finalize()
        writer.finalize()
        assert checkpoint.latest(run_dir) is not None
        return history


def load_and_train(rank: int, layout: Layout, run_dir: Path, lr: float = 1e-2) -> list[tuple[float, float]]:
    config = layout.run_config(lr)
    with initialized(config, World.from_environment()) as groups:
        toy = Toy(layout, config, groups)
        path = checkpoint.latest(run_dir)
        assert path is not None
        state = checkpoint.load(path, toy.chunks, toy.optimizer, toy.scheduler, groups)
        assert state == {"iteration": BEFORE, "consumed_samples": 4 * BEFORE, "data": {"fingerprint": "abc"}}
        assert toy.optimizer.param_groups[0]["max_lr"] == lr
        return toy.train(BEFORE, AFTER)


def load_only(rank: int, layout: Layout, run_dir: Path, with_optimizer: bool = True) -> None:
    config = layout.run_config()
    with initialized(config, World.from_environment()) as groups:
        toy = Toy(layout, config, groups)
        path = checkpoint.latest(run_dir)
        assert path is not None
        checkpoint.load(path, toy.chunks, toy.optimizer if with_optimizer else None, None, groups)


CASES = [
    (Layout(tp=2), [Layout(), Layout(pp=2), Layout(dp=2)]),
    (Layout(pp=2, layers_per_chunk=1), [Layout(tp=2), Layout(pp=2, layers_per_chunk=1)]),
    (
        Layout(dp=2, distributed_optimizer=True),
        [Layout(distributed_optimizer=True), Layout(tp=2, distributed_optimizer=True)],
    ),
    (
        Layout(dp=2, distributed_optimizer=True, overlap=True),
        [Layout(pp=2, layers_per_chunk=1, distributed_optimizer=True)],
    ),
    (Layout(dp=2, bf16=True), [Layout(bf16=True)]),
    (Layout(dp=2, bf16=True, distributed_optimizer=True), [Layout(bf16=True, distributed_optimizer=True)]),
    (Layout(tp=2, optimizer="sgd"), [Layout(optimizer="sgd")]),
]


@pytest.mark.parametrize(("saving", "loading"), CASES, ids=[saving.name for saving, _ in CASES])
def test_continues_on_other_layouts(pool: RankPool, tmp_path: Path, saving: Layout, loading: list[Layout]) -> None:
    async_save = CASES.index((saving, loading)) % 2 == 1
    expected = pool.run(train_and_save, saving.ranks, saving, tmp_path, async_save)[0]
    for layout in loading:
        for history in pool.run(load_and_train, layout.ranks, layout, tmp_path):
            for step, reference in zip(history, expected, strict=True):
                assert step == pytest.approx(reference, rel=2e-3 if saving.bf16 else 1e-5), layout.name


def test_background_save_holds_the_weights_of_its_step(pool: RankPool, tmp_path: Path) -> None:
    """Training goes on while it is written."""
    for folder, async_save in ((tmp_path / "sync", False), (tmp_path / "async", True)):
        pool.run(train_and_save, 2, Layout(tp=2), folder, async_save)
    sync, background = (checkpoint.read_full_state(checkpoint.latest(tmp_path / name)) for name in ("sync", "async"))
    assert sync.keys() == background.keys()
    assert all(torch.equal(sync[name], background[name]) for name in sync)


def test_one_process_reads_the_whole_model(pool: RankPool, tmp_path: Path) -> None:
    pool.run(train_and_save, 2, Layout(tp=2), tmp_path / "tp", False)
    pool.run(train_and_save, 2, Layout(pp=2, layers_per_chunk=1), tmp_path / "pp", False)
    tp, pp = (checkpoint.latest(tmp_path / name) for name in ("tp", "pp"))
    weights, others = checkpoint.read_full_state(tp), checkpoint.read_full_state(pp)
    assert sorted(weights) == sorted(
        f"layers.{n}.{w}.{p}" for n in range(4) for w in ("up", "down") for p in ("bias", "weight")
    )
    assert weights["layers.2.up.weight"].shape == (16, 8)
    for name, weight in weights.items():
        torch.testing.assert_close(weight, others[name], rtol=1e-5, atol=1e-6)
    with_optimizer = checkpoint.read_full_state(tp, optimizer=True)
    assert with_optimizer["optimizer.state.exp_avg.layers.2.up.weight"].shape == (16, 8)
    assert checkpoint.read_state(tp)["consumed_samples"] == 4 * BEFORE
    assert (tp / "config.yaml").read_text() == "model: toy\n"


def test_settings_come_from_the_command_line(pool: RankPool, tmp_path: Path) -> None:
    """A resumed run may change its learning rate."""
    expected = pool.run(train_and_save, 1, Layout(), tmp_path, False)[0]
    changed = pool.run(load_and_train, 1, Layout(), tmp_path, 2e-2)[0]
    assert changed[0] == pytest.approx(expected[0], rel=1e-5)  # the first loss is that of the loaded weights
    assert changed[-1][0] != pytest.approx(expected[-1][0], rel=1e-4)


def test_another_optimizer_is_refused_with_every_name(pool: RankPool, tmp_path: Path) -> None:
    pool.run(train_and_save, 1, Layout(), tmp_path, False)
    with pytest.raises(RankFailure) as failure:
        pool.run(load_only, 1, Layout(distributed_optimizer=True), tmp_path)
    message = str(failure.value)
    assert "accepted: the same model, and the same --optimizer, --bf16 and --use-distributed-optimizer" in message
    assert "optimizer.state.param.layers.*.up.weight: not in the checkpoint (0 to 3)" in message
    pool.run(load_only, 1, Layout(distributed_optimizer=True), tmp_path, False)


def save_and_load_wider(rank: int, run_dir: Path) -> None:
    config = Layout().run_config()
    with initialized(config, World.from_environment()) as groups:
        toy = Toy(Layout(), config, groups)
        toy.train(0, 1)
        checkpoint.CheckpointWriter(run_dir, groups).save(1, toy.chunks, None, None, {})
        for layer in toy.modules[0].layers.values():
            layer.up.weight = torch.nn.Parameter(torch.zeros(32, 8))
        toy.modules[0].layers["5"] = toy.modules[0].layers.pop("3")
        checkpoint.load(checkpoint.latest(run_dir), toy.chunks, None, None, groups)


def test_every_mismatch_is_named(pool: RankPool, tmp_path: Path) -> None:
    with pytest.raises(RankFailure) as failure:
        pool.run(save_and_load_wider, 1, tmp_path)
    message = str(failure.value)
    assert "layers.*.up.weight: shape [16, 8] in the checkpoint, [32, 8] in this run (0 to 2)" in message
    assert "layers.3.down.weight: in the checkpoint, but not in this run" in message
    assert "layers.5.down.weight: not in the checkpoint" in message
    assert "accepted: the same model\n" in message

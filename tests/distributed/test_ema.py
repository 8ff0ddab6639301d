"""Averages of the weights are those of a reference kept by hand, under every layout and through resumptions."""

import dataclasses
from pathlib import Path

import pytest
import torch

from tests.distributed.layouts import small_run, train
from vidtron import checkpoint, training
from vidtron.checkpoint import completed, latest, read_full_state, read_state
from vidtron.checkpoint.full_state import tensor_shapes_on_disk
from vidtron.config.world import World
from vidtron.models import registry
from vidtron.models.build import build_chunks
from vidtron.parallel import initialized
from vidtron.training import trainer as trainer_module

AVERAGES = {"ema_decay": [0.9999, 0.25], "ema_power": [0.1]}
NAMES = ["0.9999", "0.25", "power_0.1"]
GAMMA = 6.937  # of width 0.1 (arXiv:2312.02696, table 2)
STEPS = 4

DO = {"use_distributed_optimizer": True}
OVERLAP = {**DO, "overlap_grad_reduce": True, "overlap_param_gather": True}
PP2 = {"pipeline_model_parallel_size": 2}
TP2 = {"tensor_model_parallel_size": 2, "sequence_parallel": True}
LAYOUTS = {
    "1": (1, {}),
    "TP2": (2, TP2),
    "PP2": (2, PP2),
    "DP2": (2, {}),
    "DP2 distributed optimizer": (2, DO),
    "DP2 x PP2 interleaved overlapped": (4, {**OVERLAP, **PP2, "num_layers_per_virtual_pipeline_stage": 1}),
    "DP2 bf16": (2, {"bf16": True}),
    "DP2 x TP2 bf16 distributed optimizer": (4, {**TP2, **DO, "bf16": True}),
}


def by_hand(weights: list[dict[str, torch.Tensor]]) -> dict[str, dict[str, torch.Tensor]]:
    """The averages after the last of the weights; the first are those before training."""
    kept = {name: {key: tensor.double() for key, tensor in weights[0].items()} for name in NAMES}
    for n, now in enumerate(weights[1:], 1):
        for name in NAMES:
            decay = (1 - 1 / n) ** (GAMMA + 1) if name == "power_0.1" else min(float(name), (1 + n) / (10 + n))
            kept[name] = {key: decay * old + (1 - decay) * now[key] for key, old in kept[name].items()}
    return kept


def masters(path: Path) -> dict[str, torch.Tensor]:
    """Trained weights of a checkpoint in fp32."""
    state = read_full_state(path, optimizer=True)
    for prefix in ("optimizer.state.fp32_param.", "optimizer.state.param."):
        found = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
        if found:
            return found
    return {key: tensor for key, tensor in state.items() if not key.startswith("optimizer.")}


@pytest.fixture(scope="module")
def start(pool, shards, tmp_path_factory):
    """Weights before training: those after a step with a learning rate of 0."""
    folder = tmp_path_factory.mktemp("start")
    pool.run(train, 1, small_run(shards, save=folder, train_iters=1, lr=0.0))
    return read_full_state(latest(folder))


@pytest.fixture(scope="module")
def one_rank(pool, shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    pool.run(train, 1, small_run(shards, save=folder, train_iters=STEPS, save_interval=1, **AVERAGES))
    return folder


def assert_close(averages: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], rtol: float) -> None:
    assert averages.keys() == expected.keys()
    for key, tensor in averages.items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, expected[key].float(), rtol=rtol, atol=1e-7, msg=lambda m: f"{key}: {m}")  # noqa: B023


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "1"])
def test_every_layout_keeps_what_is_kept_by_hand(pool, shards, tmp_path, start, one_rank, layout):
    ranks, flags = LAYOUTS[layout]
    run = small_run(shards, save=tmp_path, train_iters=STEPS, save_interval=1, **AVERAGES, **flags)
    pool.run(train, ranks, run)
    first = {key: tensor.bfloat16().float() for key, tensor in start.items()} if flags.get("bf16") else start
    expected = by_hand([first, *map(masters, completed(tmp_path))])
    last = latest(tmp_path)
    assert checkpoint.ema_names_in(last) == sorted(NAMES)
    for name in NAMES:
        average = read_full_state(last, average=name)
        assert_close(average, expected[name], rtol=1e-5)
        distance = max((average[key] - tensor).abs().max() for key, tensor in masters(last).items())
        assert distance > 1e-4  # not the weights themselves
        if not flags.get("bf16"):
            reference = read_full_state(latest(one_rank), average=name)
            difference = torch.stack([(average[key] - reference[key]).norm() for key in reference]).norm()
            moved = torch.stack([(reference[key] - start[key]).norm() for key in reference]).norm()
            assert difference < 1e-3 * moved
    assert not any(key.startswith("ema.") for key in read_full_state(last))


WAYS = {
    "TP2 to DP2 to PP2": ["TP2", "DP2", "PP2"],
    "distributed optimizer": ["DP2 distributed optimizer", "DP2 x PP2 interleaved overlapped", "1"],
}


@pytest.mark.parametrize("way", WAYS)
def test_resumptions_on_other_layouts_go_on(pool, shards, tmp_path, way):
    flags = {**DO, "async_save": True} if way == "distributed optimizer" else {}
    common = {**AVERAGES, **flags, "train_iters": 3}
    pool.run(train, 1, small_run(shards, save=tmp_path / "whole", **common))
    folder = tmp_path / "run"
    for layout in WAYS[way]:
        ranks, flags = LAYOUTS[layout]
        pool.run(train, ranks, small_run(shards, save=folder, load=folder, exit_interval=1, **{**common, **flags}))
    assert read_state(latest(folder))["ema_updates"] == dict.fromkeys(NAMES, 3)
    for name in NAMES:
        expected = read_full_state(latest(tmp_path / "whole"), average=name)
        average = read_full_state(latest(folder), average=name)
        for key, tensor in average.items():
            difference = (tensor - expected[key]).norm()
            assert difference <= 1e-5 * max(1.0, expected[key].norm()), (name, key)


def test_runs_may_begin_and_cease_to_keep_averages(shards, tmp_path, capsys):
    def step(**flags):
        run = small_run(shards, save=tmp_path, load=tmp_path, exit_interval=1, **flags)
        training.run(run, World(size=1, rank=0, local_rank=0, has_cuda=False))

    step()
    step(ema_decay=[0.5])
    before, after = map(read_full_state, completed(tmp_path))
    average = read_full_state(latest(tmp_path), average="0.5")
    assert read_state(latest(tmp_path))["ema_updates"] == {"0.5": 1}
    for key, tensor in average.items():  # the first update after a start from the loaded weights
        torch.testing.assert_close(tensor, 2 / 11 * before[key] + 9 / 11 * after[key])
    step(ema_decay=[0.9])
    output = capsys.readouterr().out
    assert f"EMA 0.5: not in {tmp_path / 'iter_0000001'}; it starts from the weights" in output
    assert f"EMA 0.5: in {tmp_path / 'iter_0000002'}, left out: this run does not keep it" in output
    assert checkpoint.ema_names_in(latest(tmp_path)) == ["0.9"]


def train_and_look(rank: int, run, folder: Path) -> tuple[int, int]:
    """Job: at the end, save the model as it is while an average is in it; its own weights come back bit by bit.

    Returns how many elements of an average and of the model this rank has.
    """
    original = trainer_module.Trainer.train
    sizes = []

    def then_look(self):
        result = original(self)
        model = self.model
        writer = checkpoint.CheckpointWriter(folder, self.groups)
        with model.complete_weights():
            own = [[p.detach().clone() for p in module.parameters()] for module in model.modules]
            values = {name: [part.values.clone() for part in parts] for name, parts in model.averages.parts().items()}
            for number, name in enumerate(NAMES):
                with model.averages.in_model(name):
                    writer.save(number, model.modules, None, None, {})
            with pytest.raises(RuntimeError, match="sampling failed"), model.averages.in_model("0.25"):
                raise RuntimeError("sampling failed")
            for module, kept in zip(model.modules, own, strict=True):
                assert all(torch.equal(p, before) for p, before in zip(module.parameters(), kept, strict=True))
            for name, parts in model.averages.parts().items():
                assert all(torch.equal(part.values, v) for part, v in zip(parts, values[name], strict=True))
            sizes.extend([sum(v.numel() for v in values["0.25"]), sum(p.numel() for kept in own for p in kept)])
        return result

    trainer_module.Trainer.train = then_look
    try:
        train(rank, run)
    finally:
        trainer_module.Trainer.train = original
    averaged, whole = sizes
    return averaged, whole


@pytest.mark.parametrize("layout", ["TP2", "DP2 bf16", "DP2 x PP2 interleaved overlapped"])
def test_an_average_in_the_model_and_out_again(pool, shards, tmp_path, layout):
    ranks, flags = LAYOUTS[layout]
    run = small_run(shards, save=tmp_path / "run", train_iters=3, **AVERAGES, **flags)
    sizes = pool.run(train_and_look, ranks, run, tmp_path / "looked")
    share = 2 if "use_distributed_optimizer" in flags else 1
    assert share * sum(averaged for averaged, _ in sizes) == sum(whole for _, whole in sizes)
    for number, name in enumerate(NAMES):
        expected = read_full_state(latest(tmp_path / "run"), average=name)
        seen = read_full_state(tmp_path / "looked" / checkpoint.folder_name(number))
        assert seen.keys() == expected.keys()
        assert all(torch.equal(seen[key], expected[key].to(seen[key].dtype)) for key in seen)


def load_and_save(rank: int, run, path: Path, average: str, folder: Path) -> None:
    """Job: load an average in place of the weights into a bare model, and save that."""
    with initialized(run, World.from_environment()) as groups:
        chunks = build_chunks(registry.family_of(run.model), run, groups)
        assert checkpoint.load_ema(path, chunks, average, groups)["iteration"] == STEPS
        checkpoint.CheckpointWriter(folder, groups).save(1, chunks, None, None, {})


@pytest.mark.parametrize("flags", [TP2, {**PP2, "bf16": True}], ids=["TP2", "PP2 bf16"])
def test_an_average_is_loaded_in_place_of_the_weights(pool, shards, tmp_path, one_rank, flags):
    pool.run(load_and_save, 2, small_run(shards, **flags), latest(one_rank), "0.25", tmp_path)
    loaded, expected = read_full_state(latest(tmp_path)), read_full_state(latest(one_rank), average="0.25")
    assert all(torch.equal(loaded[key], expected[key].to(loaded[key].dtype)) for key in expected)


def test_an_unknown_average_is_refused(pool, shards, tmp_path, one_rank):
    with pytest.raises(AssertionError, match=r"no average 0.3; accepted: 0.25, 0.9999, power_0.1"):
        pool.run(load_and_save, 1, small_run(shards), latest(one_rank), "0.3", tmp_path)
    with pytest.raises(ValueError, match=r"no average 0.3; accepted: 0.25, 0.9999, power_0.1"):
        read_full_state(latest(one_rank), average="0.3")


def test_frozen_weights_have_no_average(pool, shards, tmp_path, start):
    run = small_run(shards, save=tmp_path, load=tmp_path, exit_interval=1, train_iters=2, **AVERAGES, **DO)
    run.adaptation.freeze = ["embedding.*"]
    pool.run(train, 2, run)
    pool.run(train, 2, dataclasses.replace(run, parallel=small_run(shards, **TP2).parallel))
    average, weights = read_full_state(latest(tmp_path), average="0.25"), read_full_state(latest(tmp_path))
    assert average.keys() == weights.keys()
    frozen = [key for key in weights if key.startswith("embedding.")]
    assert frozen and all(torch.equal(average[key], start[key]) for key in frozen)
    assert any(not torch.equal(average[key], weights[key]) for key in weights)
    keys = tensor_shapes_on_disk(latest(tmp_path))
    assert not any(key.startswith("ema.0.25.embedding.") for key in keys) and any(
        "ema.0.25.decoder." in k for k in keys
    )

"""Whole runs on one rank."""

import json
import math
import os
import signal
from pathlib import Path

import pytest
import torch

from tests.shards import write_shards
from tests.training.small import small_run
from vidtron import training
from vidtron.checkpoint import completed, latest, read_full_state, read_state
from vidtron.config.errors import ConfigurationError
from vidtron.config.world import World
from vidtron.training import trainer as trainer_module
from vidtron.training.bad_samples import TooManyBadSamplesError
from vidtron.training.batches import MicroBatch
from vidtron.training.forward_step import ForwardStep
from vidtron.training.health import NonFiniteStepError


def train(run):
    return training.run(run, World(size=1, rank=0, local_rank=0, has_cuda=False))


def rows(folder: Path, kind: str = "train"):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


@pytest.fixture(scope="module")
def valid_shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("valid"), clips=3, first_seed=100)


def test_a_run_learns_and_leaves_its_folder(shards, tmp_path):
    folder = tmp_path / "run"
    result = train(small_run(shards, save=folder, train_iters=30, lr=5e-3, micro_batch_size=2))
    assert result.stopped_by == "done"
    assert (result.iteration, result.consumed_samples) == (30, 60)
    assert sum(result.losses[-5:]) < 0.8 * sum(result.losses[:5])
    assert [path.name for path in completed(folder)] == ["iter_0000030"]
    assert (folder / "config.yaml").read_text() == (folder / "iter_0000030" / "config.yaml").read_text()
    written = rows(folder)
    assert [row["iteration"] for row in written] == list(range(1, 31))
    assert [row["loss"] for row in written] == result.losses
    assert [row["grad_norm"] for row in written] == result.gradient_norms
    assert written[-1]["consumed_samples"] == 60
    assert all(row["model_tflops_per_device"] > 0 and row["memory_gib"] > 0 for row in written)


def test_the_same_run_twice_in_one_process(shards):
    run = small_run(shards)
    assert train(run).losses == train(run).losses


def test_micro_batches_and_workers_change_nothing(shards):
    expected = train(small_run(shards, global_batch_size=4, micro_batch_size=4))
    result = train(small_run(shards, global_batch_size=4, num_workers=2))
    assert result.losses == pytest.approx(expected.losses, rel=1e-5)
    assert result.gradient_norms == pytest.approx(expected.gradient_norms, rel=1e-5)


def test_resumed_run_continues(shards, tmp_path):
    expected = train(small_run(shards, train_iters=6, lr_decay_style="linear", lr_warmup_iters=2))
    flags = {"train_iters": 6, "lr_decay_style": "linear", "lr_warmup_iters": 2, "save": tmp_path, "load": tmp_path}
    first = train(small_run(shards, exit_interval=4, **flags))
    assert first.stopped_by == "interval"
    second = train(small_run(shards, **flags))
    assert first.losses + second.losses == pytest.approx(expected.losses, rel=1e-6)
    written = rows(tmp_path)
    assert [row["iteration"] for row in written] == [1, 2, 3, 4, 5, 6]
    assert [row["learning_rate"] for row in written] == pytest.approx([0, 5e-4, 1e-3, 7.5e-4, 5e-4, 2.5e-4])


def test_resumption_from_an_older_checkpoint_cuts_the_metrics(shards, tmp_path):
    folder = tmp_path / "run"
    result = train(small_run(shards, save=folder, save_interval=2))
    again = train(small_run(shards, save=tmp_path / "other", load=folder / "iter_0000002"))
    assert again.losses == pytest.approx(result.losses[2:], rel=1e-6)
    (folder / "iter_0000004").rename(tmp_path / "gone")
    train(small_run(shards, save=folder, load=folder))
    assert [row["iteration"] for row in rows(folder)] == [1, 2, 3, 4]


@pytest.mark.parametrize("flags", [{"optimizer": "sgd"}, {"use_distributed_optimizer": True}, {"bf16": True}])
def test_every_optimizer_resumes(shards, tmp_path, flags):
    expected = train(small_run(shards, **flags))
    flags = {"save": tmp_path, "load": tmp_path, **flags}
    train(small_run(shards, exit_interval=2, **flags))
    assert train(small_run(shards, **flags)).losses == pytest.approx(expected.losses[2:], rel=1e-6)


def test_new_settings_win_on_resumption(shards, tmp_path):
    train(small_run(shards, save=tmp_path, train_iters=2))
    train(small_run(shards, save=tmp_path, load=tmp_path, train_iters=4, lr=2e-4, weight_decay=0.5))
    assert [row["learning_rate"] for row in rows(tmp_path)] == pytest.approx([1e-3, 1e-3, 2e-4, 2e-4])


def test_other_data_is_refused_on_resumption(shards, valid_shards, tmp_path):
    train(small_run(shards, save=tmp_path, train_iters=1))
    other = {
        "--data-path": small_run(valid_shards, save=tmp_path, load=tmp_path),
        "--seed": small_run(shards, save=tmp_path, load=tmp_path, seed=5),
    }
    for flag, run in other.items():
        with pytest.raises(ConfigurationError, match=f"{flag}(.|\n)*iter_0000001/config.yaml"):
            train(run)
        (error,) = training.check(run, World(size=1, rank=0, local_rank=0, has_cuda=False))
        assert error.startswith("--data-path")


def test_another_batch_size_is_told(shards, tmp_path, capsys):
    train(small_run(shards, save=tmp_path, train_iters=1))
    result = train(small_run(shards, save=tmp_path, load=tmp_path, train_iters=2, global_batch_size=4))
    assert result.consumed_samples == 2 + 4
    assert "the global batch is 4 from here on; it was 2" in capsys.readouterr().out


def test_finished_run_does_nothing(shards, tmp_path):
    train(small_run(shards, save=tmp_path, train_iters=2))
    result = train(small_run(shards, save=tmp_path, load=tmp_path, train_iters=2))
    assert (result.losses, result.iteration, result.stopped_by) == ([], 2, "done")


def test_overwrite(shards, tmp_path):
    train(small_run(shards, save=tmp_path, train_iters=3))
    train(small_run(shards, save=tmp_path, train_iters=2, overwrite=True))
    assert [path.name for path in completed(tmp_path)] == ["iter_0000002"]
    assert len(rows(tmp_path)) == 2


def test_save_interval_and_pruning(shards, tmp_path):
    train(small_run(shards, save=tmp_path, train_iters=5, save_interval=1, keep_latest=2, async_save=True))
    assert [path.name for path in completed(tmp_path)] == ["iter_0000004", "iter_0000005"]


def test_batch_size_grows(shards, tmp_path):
    run = small_run(shards, save=tmp_path, global_batch_size=4, rampup_batch_size=(1, 1, 6), train_iters=6)
    train(run)
    sizes = [row["global_batch_size"] for row in rows(tmp_path)]
    assert sizes[0] == 1
    assert sizes[-1] == 4
    assert sizes == sorted(sizes)


def test_evaluation(shards, valid_shards, tmp_path):
    flags = {"eval_interval": 2, "eval_iters": 2, "valid_data_path": [str(valid_shards)]}
    plain = train(small_run(shards, save=tmp_path / "plain"))
    result = train(small_run(shards, save=tmp_path / "run", **flags))
    assert list(result.evaluations) == [2, 4]
    (first, second) = rows(tmp_path / "run", "eval")
    assert [first["iteration"], second["iteration"]] == [2, 4]
    assert first["loss"] == result.evaluations[2]
    # Training is what it is without evaluations, bit by bit.
    assert result.losses == plain.losses
    expected, weights = (read_full_state(tmp_path / name / "iter_0000004") for name in ("plain", "run"))
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_evaluation_is_the_same_every_time(shards, valid_shards):
    flags = {"eval_interval": 1, "eval_iters": 2, "valid_data_path": [str(valid_shards)], "lr": 0.0}
    result = train(small_run(shards, **flags))
    assert len(set(result.evaluations.values())) == 1
    other = train(small_run(shards, seed=7, global_batch_size=4, **{**flags, "eval_iters": 1}))
    assert len(set(other.evaluations.values())) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signal_saves_and_leaves(shards, tmp_path, monkeypatch, number):
    attempt = trainer_module.Trainer._attempt

    def with_signal(self, batch):
        if self.progress.iteration == 1:
            os.kill(os.getpid(), number)
        return attempt(self, batch)

    monkeypatch.setattr(trainer_module.Trainer, "_attempt", with_signal)
    result = train(small_run(shards, save=tmp_path, train_iters=50))
    assert result.stopped_by == "signal"
    assert result.iteration == 2
    assert [path.name for path in completed(tmp_path)] == ["iter_0000002"]


def test_duration_saves_and_leaves(shards, tmp_path):
    result = train(small_run(shards, save=tmp_path, train_iters=10**6, exit_duration_in_mins=1e-3))
    assert result.stopped_by == "duration"
    assert completed(tmp_path)


def break_sample(monkeypatch, key_position: int, attempts: int):
    """Make the loss of one sample NaN in so many forward passes."""
    original, left = ForwardStep.__call__, [attempts]

    def broken(self, micro_batches, chunk):
        batch: MicroBatch = next(micro_batches)
        output, loss_of = original(self, iter([batch]), chunk)
        if key_position not in batch.positions or left[0] == 0:
            return output, loss_of
        left[0] -= 1
        return output, lambda out: loss_of(out * math.nan)

    monkeypatch.setattr(ForwardStep, "__call__", broken)


def test_nan_is_repeated_once(shards, tmp_path, monkeypatch, capsys):
    expected = train(small_run(shards))
    break_sample(monkeypatch, 3, attempts=1)
    assert train(small_run(shards)).losses == expected.losses
    output = capsys.readouterr().out
    assert "step 2: loss is nan; samples: clip" in output
    assert "running the step again" in output


def test_nan_that_stays_ends_the_run(shards, tmp_path, monkeypatch):
    break_sample(monkeypatch, 3, attempts=10)
    with pytest.raises(NonFiniteStepError, match=r"step 2: .* \(position 3, timestep \d+, sigma 0.\d+\), twice"):
        train(small_run(shards, save=tmp_path))
    assert [row["iteration"] for row in rows(tmp_path)] == [1]
    assert not completed(tmp_path)


def test_image_to_video(shards):
    result = train(small_run(shards, in_channels=32, train_iters=2, image_dropout=0.5))
    assert all(map(math.isfinite, result.losses))


def test_weight_decay_spares_biases_and_norms(shards, monkeypatch):
    seen = {}
    original = trainer_module.Trainer.train

    def spy(self):
        names = {id(p): n for chunk in self.model.chunks for n, p in chunk.named_parameters()}
        for group in self.model.optimizer.param_groups:
            for parameter in group["params"]:
                seen[names[id(parameter)]] = (group["weight_decay"], parameter.dim())
        return original(self)

    monkeypatch.setattr(trainer_module.Trainer, "train", spy)
    train(small_run(shards, train_iters=1, weight_decay=0.25))
    assert {decay for decay, _ in seen.values()} == {0.0, 0.25}
    for name, (decay, dimensions) in seen.items():
        assert decay == (0.0 if name.endswith("bias") or dimensions == 1 else 0.25), name


def break_first_clip(folder):
    """Overwrites the headers of clip000."""
    content = bytearray((folder / "shard_000000.tar").read_bytes())
    content[512:1500] = bytes(988)
    (folder / "shard_000000.tar").write_bytes(content)


def test_a_broken_clip_is_replaced_named_and_remembered(tmp_path, capsys):
    broken = write_shards(tmp_path / "broken", clips=6)
    break_first_clip(broken)
    flags = {"train_iters": 8, "num_workers": 1}
    expected = train(small_run(broken, save=tmp_path / "whole", **flags))
    assert capsys.readouterr().out.count("bad sample clip000 of") == 1
    written = rows(tmp_path / "whole")
    bad = [row for row in written if row["samples_digest"] != row["planned_digest"]]
    assert 2 <= len(bad) < len(written)  # once an epoch of three steps
    assert written[-1]["bad_samples"] == 1
    # Stopped after the first epoch and continued: the clip is known, replaced by the same ones and not told again.
    run = {"save": tmp_path / "parts", "load": tmp_path / "parts", **flags}
    first = train(small_run(broken, exit_interval=4, **run))
    (remembered,) = read_state(latest(tmp_path / "parts"))["bad_samples"]
    assert remembered["key"] == "clip000" and remembered["reason"]
    capsys.readouterr()
    second = train(small_run(broken, **run))
    assert "bad sample" not in capsys.readouterr().out.replace("bad samples", "")
    assert first.losses + second.losses == pytest.approx(expected.losses, rel=1e-6)
    assert [row["samples_digest"] for row in rows(tmp_path / "parts")] == [row["samples_digest"] for row in written]


def test_too_many_bad_samples_stop_the_run(tmp_path):
    broken = write_shards(tmp_path, clips=4)
    break_first_clip(broken)
    with pytest.raises(TooManyBadSamplesError, match="more than --max-bad-samples 0; the last: clip000"):
        train(small_run(broken, max_bad_samples=0))

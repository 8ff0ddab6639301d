"""What the ranks of a run must agree on."""

import math
import os
import signal

import pytest

from tests.distributed.layouts import train
from tests.distributed.rank_pool import RankFailure
from tests.shards import write_shards
from tests.training.small import small_run
from vidtron.checkpoint import completed
from vidtron.training import trainer as trainer_module
from vidtron.training.forward_step import ForwardStep
from vidtron.training.sample_maker import SampleMaker

PP2 = {"pipeline_model_parallel_size": 2}
INTERLEAVED = {**PP2, "num_layers_per_virtual_pipeline_stage": 1, "num_layers": 4}
OVERLAPPED = {"use_distributed_optimizer": True, "overlap_grad_reduce": True, "overlap_param_gather": True}


def train_with_signal(rank: int, run, signalled_rank: int):
    """Job: one rank alone receives a signal in its second step."""
    attempt = trainer_module.Trainer._attempt

    def with_signal(self, batch):
        if rank == signalled_rank and self.progress.iteration == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        return attempt(self, batch)

    trainer_module.Trainer._attempt = with_signal
    try:
        return train(rank, run)
    finally:
        trainer_module.Trainer._attempt = attempt


def train_with_nan(rank: int, run, position: int):
    """Job: the first forward pass over one sample gives NaN, on the ranks that compute its loss."""
    original, seen = ForwardStep.micro_batch_loss, []

    def broken(self, batch, output):
        if position in batch.positions and not seen:
            seen.append(1)
            output = output * math.nan
        return original(self, batch, output)

    ForwardStep.micro_batch_loss = broken
    try:
        return train(rank, run), len(seen)
    finally:
        ForwardStep.micro_batch_loss = original


def train_with_bad_sample(rank: int, run):
    """Job: one sample cannot be made, on the one rank that makes it."""
    original = SampleMaker.make

    def failing(self, clip):
        if clip.position == 1:
            raise ValueError(f"sample {clip.key} is broken")
        return original(self, clip)

    SampleMaker.make = failing
    try:
        return train(rank, run)
    finally:
        SampleMaker.make = original


@pytest.mark.parametrize("flags", [{}, {"tensor_model_parallel_size": 2}, PP2], ids=["DP2", "TP2", "PP2"])
def test_a_signal_to_one_rank_stops_all_after_the_same_step(pool, shards, tmp_path, flags):
    results = pool.run(train_with_signal, 2, small_run(shards, save=tmp_path, train_iters=50, **flags), 1)
    assert [(result.stopped_by, result.iteration) for result in results] == [("signal", 2)] * 2
    assert [path.name for path in completed(tmp_path)] == ["iter_0000002"]


@pytest.mark.parametrize(
    "flags", [{}, OVERLAPPED, PP2, INTERLEAVED], ids=["DP2", "DP2 overlapped", "PP2", "interleaved"]
)
def test_nan_on_one_rank_repeats_the_step_on_all(pool, shards, flags):
    run = small_run(shards, **flags)
    expected = pool.run(train, 2, run)
    results = pool.run(train_with_nan, 2, run, 3)
    assert sum(seen for _, seen in results) == 1
    assert [result.losses for result, _ in results] == [result.losses for result in expected]


def test_a_bad_sample_ends_all_ranks_of_its_replica(pool, shards):
    run = small_run(shards, tensor_model_parallel_size=2)
    with pytest.raises(RankFailure, match=r"(?s)another rank of this replica.*sample clip\d+ is broken"):
        pool.run(train_with_bad_sample, 2, run)


@pytest.fixture(scope="module")
def valid_shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("valid"), clips=3, first_seed=100)


@pytest.mark.parametrize(
    "flags", [OVERLAPPED, {"tensor_model_parallel_size": 2, "sequence_parallel": True}, INTERLEAVED],
    ids=["DP2 overlapped", "TP2+SP", "PP2 interleaved"],
)  # fmt: skip
def test_evaluation_under_a_layout(pool, shards, valid_shards, flags):
    evaluation = {"eval_interval": 2, "eval_iters": 2, "valid_data_path": [str(valid_shards)]}
    network = {name: value for name, value in flags.items() if name == "num_layers"}
    expected = pool.run(train, 1, small_run(shards, **evaluation, **network))[0]
    for result in pool.run(train, 2, small_run(shards, **evaluation, **flags)):
        assert result.losses == pytest.approx(expected.losses, rel=1e-5)
        assert list(result.evaluations) == [2, 4]
        assert list(result.evaluations.values()) == pytest.approx(list(expected.evaluations.values()), rel=1e-5)


def test_one_rank_logs(pool, shards, tmp_path):
    pool.run(train, 2, small_run(shards, save=tmp_path, pipeline_model_parallel_size=2))
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 4

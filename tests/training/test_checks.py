"""What the trainer refuses of buckets."""

from pathlib import Path

from tests.training.small import small_run
from vidtron.config.world import World
from vidtron.training.checks import check


def errors(shards: Path, tmp_path: Path, ranks: int = 1, **flags):
    buckets = tmp_path / "buckets.yaml"
    buckets.write_text('"32x48": {5: [0.5, 6], 9: [1.0, 6]}\n')
    run = small_run(shards, bucket_config=buckets, global_batch_size=None, **flags)
    return check(run, World(size=ranks, rank=0, local_rank=0, has_cuda=False))


def test_good_buckets(shards, tmp_path):
    assert errors(shards, tmp_path) == []
    assert errors(shards, tmp_path, ranks=3, micro_batch_size=2) == []


def test_batches_that_an_interleaved_pipeline_cannot_take(shards, tmp_path):
    flags = {"pipeline_model_parallel_size": 2, "num_layers_per_virtual_pipeline_stage": 1, "num_layers": 4}
    assert errors(shards, tmp_path, ranks=2, **flags) == []
    assert errors(shards, tmp_path, ranks=4, **flags) == [
        f"--bucket-config: {frames} frames at 32x48: global batch 6 on 2 replicas: accepted: multiples of 4"
        for frames in (9, 5)
    ]


def test_groups_of_ranks_that_do_not_divide_a_batch(shards, tmp_path):
    found = errors(shards, tmp_path, timestep_sampling="rank-groups", timestep_ranks=4)
    assert len(found) == 2 and all("--timestep-ranks 4: does not divide the batches of 6" in e for e in found)


def test_shift_by_size_needs_lengths_it_knows(shards, tmp_path):
    flow = {"schedule": "flow", "parameterization": "flow", "num_frames": 17}
    found = errors(shards, tmp_path, timestep_shift_by_size=True, **flow)
    assert [e.split(";")[0] for e in found] == [
        f"--timestep-shift-by-size: {frames} frames at 32x48" for frames in (9, 5)
    ]

"""Errors of buckets and blends, over an index without files."""

from pathlib import Path
from typing import Any

import pytest

from tests.data.array_index import ArrayIndex
from tests.data.test_buckets import FIT
from vidtron.config.data import DataConfig
from vidtron.config.parallel import ParallelConfig
from vidtron.config.run import RunConfig
from vidtron.config.training import TrainingConfig
from vidtron.config.world import World
from vidtron.data import check, checks

TEXT = "240x400: {1: [1, 8], 17: [1, 4]}\n144x256: {17: [0.5, 6], 33: [0, null]}"


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> ArrayIndex:
    """What every folder holds."""
    index = ArrayIndex([20] * 20 + [1] * 20, 240, 400)
    monkeypatch.setattr(checks.ShardIndex, "open", lambda *folders, **settings: index)
    return index


@pytest.fixture
def buckets(tmp_path: Path) -> Path:
    path = tmp_path / "buckets.yaml"
    path.write_text(TEXT)
    return path


def errors(
    data_path: list[str] | None = None,
    ranks: int = 1,
    training: dict[str, Any] | None = None,
    parallel: dict[str, Any] | None = None,
    **data: Any,
) -> list[str]:
    config = RunConfig(
        "test",
        None,
        data=DataConfig(data_path=data_path or ["shards"], **data),
        training=TrainingConfig(**training or {}),
        parallel=ParallelConfig(**parallel or {}),
    )
    return check(config, World(size=ranks, rank=0, local_rank=0, has_cuda=False, packages=frozenset()), FIT)


@pytest.mark.usefixtures("index")
def test_good_buckets(buckets: Path) -> None:
    assert errors(bucket_config=buckets) == []
    assert errors(bucket_config=buckets, bucket_rule="opensora", frame_interval=1) == []
    assert errors(bucket_config=buckets, bucket_batch="tokens", global_batch_tokens=4000) == []
    assert errors(bucket_config=buckets, bucket_batch="compute", bucket_batch_multiple=4, ranks=4) == []


@pytest.mark.usefixtures("index")
def test_numbers_are_all_told_at_once() -> None:
    found = errors(
        shuffle_slice=0,
        shuffle_window=0,
        frame_interval=0,
        max_bad_samples=-1,
        data_cache_gib=0.0,
        bucket_batch_multiple=0,
        global_batch_tokens=0,
    )
    flags = "global-batch-tokens bucket-batch-multiple shuffle-slice shuffle-window frame-interval max-bad-samples"
    assert [e.split()[0] for e in found] == [
        *(f"--{flag}" for flag in flags.split()), "--data-cache-gib", "--global-batch-tokens"
    ]  # fmt: skip
    assert all("accepted" in e for e in found)


@pytest.mark.usefixtures("index")
def test_flags_that_need_each_other(buckets: Path) -> None:
    assert errors(bucket_rule="opensora") == ["--bucket-rule opensora: accepted: with --bucket-config"]
    assert errors(bucket_batch="compute") == ["--bucket-batch compute: accepted: with --bucket-config"]
    with_buckets = {"bucket_config": buckets}
    assert errors(**with_buckets, bucket_batch="tokens") == [
        "--bucket-batch tokens: accepted: with --global-batch-tokens"
    ]
    assert errors(**with_buckets, global_batch_tokens=5) == [
        "--global-batch-tokens 5: accepted: with --bucket-batch tokens"
    ]
    assert errors(**with_buckets, bucket_batch_multiple=2) == [
        "--bucket-batch-multiple 2: accepted: with --bucket-batch tokens or compute"
    ]
    assert errors(fps=8.0, frame_interval=3) == ["--frame-interval 3 with --fps: accepted: one of the two"]
    (error,) = errors(**with_buckets, bucket_rule="opensora", fps=8.0)
    assert error.startswith("--fps 8 with --bucket-rule opensora")


@pytest.mark.usefixtures("index")
def test_other_batch_sizes(buckets: Path) -> None:
    found = errors(bucket_config=buckets, training={"global_batch_size": 4, "rampup_batch_size": (1, 1, 10)})
    assert [e.split(":")[0] for e in found] == ["--global-batch-size 4", "--rampup-batch-size 1 1 10"]
    assert errors(training={"global_batch_size": 4, "rampup_batch_size": (1, 1, 10)}) == []


@pytest.mark.usefixtures("index")
def test_batches_that_the_replicas_cannot_share(buckets: Path) -> None:
    assert errors(bucket_config=buckets, ranks=4, parallel={"tensor_model_parallel_size": 2}) == []
    assert errors(bucket_config=buckets, ranks=4) == [
        f"--bucket-config {buckets}: bucket 144x256-17f: 6 samples of a global batch do not divide among 4 "
        "data-parallel replicas; accepted: multiples of 4"
    ]
    by_tokens = {"bucket_batch": "tokens", "global_batch_tokens": 5 * 15 * 25 * 3}
    found = errors(bucket_config=buckets, ranks=2, **by_tokens)
    assert "bucket 240x400-17f: 3 samples" in found[0] and "(--bucket-batch-multiple 2)" in found[0]


@pytest.mark.usefixtures("index")
def test_mistakes_of_the_file(buckets: Path) -> None:
    buckets.write_text("250p: {17: [1, 2]}\n240x400: {16: [1, 2]}")
    found = errors(bucket_config=buckets)
    assert len(found) == 2 and all(e.startswith(f"--bucket-config {buckets}: ") for e in found)
    assert "240p" in found[0] and "accepted: 13 or 17" in found[1]


@pytest.mark.usefixtures("index")
def test_an_epoch_without_batches(buckets: Path) -> None:
    buckets.write_text("240x400: {1: [1, 21], 17: [1, 21]}")
    (error,) = errors(bucket_config=buckets)
    assert error.startswith(
        "--data-path: the 40 clips in shards0 fill no global batch of any bucket; 40 find a bucket"
    )
    # Evaluation has no buckets.
    assert errors(bucket_config=buckets, valid_data_path=["shards"]) == [error]


def test_weights(index: ArrayIndex) -> None:
    index.folder_sizes = [10, 30]
    assert errors(["0.5", "a", "0.5", "b"]) == []
    assert errors(["0.5", "a", "b"]) == [
        "--data-path: b has no weight; accepted: folders alone, or a weight before each: 0.7 A 0.3 B"
    ]

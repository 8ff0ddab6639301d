from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.array_index import ArrayIndex, random_index
from tests.data.test_plan_properties import FIT
from vidtron.config.data import DataConfig
from vidtron.data.planning.plan import Plan


def plan_of(index: ArrayIndex, seed: int = 0, *, weights: list[float] | None = None, **data: Any) -> Plan:
    sequential, fixed = data.pop("sequential", False), data.pop("fixed_windows", False)
    settings = {"num_frames": 5, "height": 48, "width": 72, **data}
    return Plan.from_config(
        index,  # type: ignore[arg-type]
        DataConfig(**settings),
        seed,
        FIT,
        sequential=sequential,
        weights=weights,
        fixed_windows=fixed,
    )


@pytest.fixture
def index() -> ArrayIndex:
    return ArrayIndex([30 + i for i in range(13)])


@pytest.fixture
def buckets(tmp_path: Path) -> Path:
    path = tmp_path / "buckets.yaml"
    path.write_text("256: {1: [1.0, 4], 17: [1.0, 3], 33: [0.5, 2]}\n144p: {17: [0.5, 4]}\n")
    return path


@pytest.mark.parametrize(("slices", "window"), [(1, 100), (4, 100), (4, 5), (100, 3)])
def test_without_buckets_every_epoch_is_another_permutation(index: ArrayIndex, slices: int, window: int) -> None:
    plan = plan_of(index, 3, shuffle_slice=slices, shuffle_window=window)
    epochs = [tuple(plan.rows(epoch * 13, 13)) for epoch in range(6)]
    assert all(sorted(epoch) == list(range(13)) for epoch in epochs)
    assert len(set(epochs)) == 6
    batch = plan.batch_at(17)
    assert (batch.first, batch.size, batch.epoch, batch.bucket.size) == (17, None, 1, (5, 48, 72))


def test_slices_keep_neighbours_in_a_window() -> None:
    plan = plan_of(ArrayIndex([9] * 1000), shuffle_slice=50, shuffle_window=100)
    for window in range(10):
        rows = plan.rows(window * 100, 100)
        assert len(set(rows // 50)) == 2 and np.any(np.diff(rows) != 1)


def test_seed_and_position_change_the_window(index: ArrayIndex) -> None:
    windows = set()
    for seed in range(4):
        plan = plan_of(ArrayIndex([40]), seed)
        windows |= {tuple(plan.frames_at(plan.slot(position))) for position in range(10)}
    assert len(windows) > 15
    assert len({tuple(plan_of(index, seed).rows(0, 13)) for seed in range(5)}) == 5


def test_centred_and_fixed_windows(index: ArrayIndex) -> None:
    centre = plan_of(index, clip_window="centre")
    assert all(centre.frames_at(s)[0] == (26 + s.row) // 2 for s in map(centre.slot, range(13)))
    fixed = plan_of(index, fixed_windows=True)
    epochs = [{s.row: fixed.frames_at(s) for s in map(fixed.slot, range(e, e + 13))} for e in (0, 13)]
    assert epochs[0] == epochs[1] and len({frames[0] for frames in epochs[0].values()}) > 5


def test_sequential_plans_go_through_the_middles(index: ArrayIndex, buckets: Path) -> None:
    plan = plan_of(index, 9, sequential=True, shuffle_window=4, shuffle_slice=2, bucket_config=buckets)
    assert plan.rows(0, 15).tolist() == [*range(13), 0, 1]
    assert plan.frames_at(plan.slot(0)) == plan.frames_at(plan.slot(13)) == [13, 14, 15, 16, 17]
    assert [bucket.name for bucket in plan.buckets] == ["48x72-5f"]


def test_skip_leaves_short_clips_out_and_counts_them() -> None:
    index = ArrayIndex([4, 17, 3, 20, 17])
    plan = plan_of(index, num_frames=17, short_clip="skip")
    assert set(plan.rows(0, 9)) == {1, 3, 4} and plan.slot(3).epoch == 1
    assert plan.warnings() == [
        "2 of 5 clips are left out: too short: fewer frames than any bucket asks for",
    ]
    index.taken = 0
    padded = plan_of(index, num_frames=17, short_clip="pad")
    assert set(padded.rows(0, 5)) == set(range(5)) and padded.warnings() == []
    assert all(len(padded.frames_at(padded.slot(p))) == 17 for p in range(10))
    assert index.taken == 0, "nothing is read where every sample is used"


def test_a_plan_without_samples() -> None:
    plan = plan_of(ArrayIndex([4, 16]), num_frames=17, fps=8.0, short_clip="skip")
    assert plan.errors() == ["none of the 2 clips in shards0 has 17 frames at 8 frames a second"]
    with pytest.raises(ValueError, match="no epoch gives a whole batch"):
        plan.slot(0)
    assert plan_of(ArrayIndex([17]), num_frames=17).errors() == []


def test_a_plan_without_batches(buckets: Path) -> None:
    index = ArrayIndex([20, 20, 1, 1], [256, 256, 256, 30], [256, 256, 256, 30])
    plan = plan_of(index, bucket_config=buckets)
    assert plan.errors() == [
        "the 4 clips in shards0 fill no global batch of any bucket; 3 find a bucket; 1 too small: fewer pixels than "
        "any resolution asks for"
    ]
    with pytest.raises(ValueError, match="no epoch gives a whole batch"):
        plan.batch_at(0)


def test_opensoras_rule_takes_opensoras_windows(buckets: Path) -> None:
    index = ArrayIndex([1, 1, 1, 1] + [60] * 12, 256, 256)
    plan = plan_of(index, bucket_config=buckets, bucket_rule="opensora", frame_interval=3)
    shown = [plan.frames_at(plan.slot(position)) for position in range(plan.epoch_report().used)]
    images, videos = [f for f in shown if len(f) == 1], [f for f in shown if len(f) == 17]
    assert images == [[0]] * 4 and len(videos) == 12
    assert all(frames[-1] - frames[0] == 17 * 3 - 1 for frames in videos)
    assert {frames[0] for frames in videos} <= set(range(60 - 17 * 3)) and len({frames[0] for frames in videos}) > 3
    fixed = plan_of(index, bucket_config=buckets, bucket_rule="opensora", frame_interval=3, fixed_windows=True)
    starts = [{s.row: fixed.frames_at(s) for s in map(fixed.slot, range(e * 16, e * 16 + 16))} for e in (0, 1)]
    assert all(starts[1][row] == frames for row, frames in starts[0].items() if row in starts[1])


def test_what_should_worry(buckets: Path) -> None:
    plan = plan_of(ArrayIndex([20] * 4 + [1] * 3, 256, 256), bucket_config=buckets)
    assert plan.errors() == []
    assert plan.warnings() == [
        "bucket 256-33f is empty: no clip finds it",
        "buckets with fewer samples than a batch give none: 256-1f-1.0 (3 of 4)",
        "bucket 144p-17f is empty: no clip finds it",
    ]
    report = plan.epoch_report()
    assert (report.samples, report.used, report.left_over, report.batches, report.dropped) == (7, 3, 4, 1, {})
    (used,) = [one for one in report.buckets if one.batches]
    assert used.flops == 3 * 17 * 256 * 256 and used.tokens == 3 * 17 * 256


def test_positions_out_of_range(index: ArrayIndex) -> None:
    with pytest.raises(ValueError, match="accepted: 0 or more"):
        plan_of(index).slot(-1)
    with pytest.raises(ValueError, match="attempt 0; accepted: 1 or more"):
        plan_of(index).replacement(0, 0)


def test_weights_and_folders() -> None:
    index = random_index(1, 100, 3)
    with pytest.raises(ValueError, match="2 weights for 3 folders"):
        plan_of(index, weights=[0.5, 0.5])
    rows = plan_of(index, weights=[0.98, 0.01, 0.01]).rows(0, 100)
    assert sorted(np.searchsorted(np.cumsum(index.folder_sizes), rows, "right")) == [0] * 98 + [1, 2]


def test_far_positions_are_arithmetic_where_epochs_are_equal(tmp_path: Path) -> None:
    path = tmp_path / "fixed.yaml"
    path.write_text("144p: {1: [1, 3], 5: [1, 4]}")
    index = random_index(2, 500)
    plan = plan_of(index, bucket_config=path, shuffle_window=50)
    length = plan.epoch_report().used
    far = 10**9 * length
    plan.slot(far)
    before = index.taken
    assert plan.slot(far + length - 1).epoch == 10**9 and index.taken - before <= 3 * 500
    assert sorted(plan.rows(far, length)) != sorted(plan.rows(0, length)), "another left over"
    assert plan.slot(far).epoch == 10**9 and plan.slot(far - 1).epoch == 10**9 - 1


def test_a_run_starts_without_counting_an_epoch(buckets: Path) -> None:
    index = random_index(3, 5000)
    plan = plan_of(index, bucket_config=buckets, shuffle_window=100)
    plan.batch_at(0)
    assert index.taken <= 3 * 500


def test_the_fingerprint_names_the_function(buckets: Path) -> None:
    def index(name: str = "x", sizes: list[int] | None = None) -> ArrayIndex:
        return ArrayIndex([30 + i for i in range(13)], folder_sizes=sizes or [6, 7], fingerprint=name)

    same = plan_of(index(), 1).fingerprint()
    assert plan_of(index(sizes=[5, 8]), 1).fingerprint() == same
    assert plan_of(index(), 1, num_workers=7, prefetch_samples=9, data_path=["x"]).fingerprint() == same
    bucketed = {"bucket_config": buckets, "seed": 1}
    other = buckets.with_name("other.yaml")
    other.write_text(buckets.read_text().replace("0.5", "0.25"))
    batches = buckets.with_name("batches.yaml")
    batches.write_text(buckets.read_text().replace("[0.5, 2]", "[0.5, 3]"))
    copy = buckets.with_name("copy.yaml")
    copy.write_text(buckets.read_text())
    same_buckets = plan_of(index(), **bucketed).fingerprint()
    assert plan_of(index(), 1, bucket_config=copy, height=64, num_frames=9).fingerprint() == same_buckets
    others = [
        plan_of(index(), 2),
        plan_of(index(), 1, num_frames=9),
        plan_of(index(), 1, height=64),
        plan_of(index(), 1, fps=8.0),
        plan_of(index(), 1, frame_interval=2),
        plan_of(index(), 1, short_clip="loop"),
        plan_of(index(), 1, clip_window="centre"),
        plan_of(index(), 1, sequential=True),
        plan_of(index(), 1, fixed_windows=True),
        plan_of(index(), 1, shuffle_slice=3),
        plan_of(index(), 1, shuffle_window=3),
        plan_of(index("y"), 1),
        plan_of(index(), 1, weights=[0.5, 0.5]),
        plan_of(index(), 1, weights=[0.7, 0.3]),
        plan_of(index(sizes=[5, 8]), 1, weights=[0.7, 0.3]),
        plan_of(index(), 1, bucket_config=buckets, bucket_rule="opensora"),
        plan_of(index(), 1, bucket_config=other),
        plan_of(index(), 1, bucket_config=batches),
    ]
    assert len({same, same_buckets, *(plan.fingerprint() for plan in others)}) == 20

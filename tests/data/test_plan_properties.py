"""What holds for plans of any index and configuration: over random ones."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.data.array_index import ArrayIndex, random_index
from vidtron.config.data import DataConfig
from vidtron.data.fit import ClipFit
from vidtron.data.planning.plan import Plan, PlannedBatch

FIT = ClipFit(
    rounded_size=lambda height, width: (max(1, round(height / 16)) * 16, max(1, round(width / 16)) * 16),
    nearest_frames=lambda frames: (frames,),
    tokens=lambda size: size.num_frames * size.height * size.width // 256,
    flops=lambda size: 1.0 * size.num_frames * size.height * size.width,
    errors=lambda size: [],
)
CASES = range(12)


class Case:
    """A random plan that can be made again and again."""

    def __init__(self, number: int, folder: Path, **fixed: Any) -> None:
        rng = np.random.default_rng(number)
        folders = int(rng.integers(1, 4))
        self.index: ArrayIndex = random_index(number, int(rng.integers(80, 700)), folders)
        path = folder / f"{number}.yaml"
        path.write_text(yaml.safe_dump(random_buckets(rng)))
        settings: dict[str, Any] = {
            "bucket_config": path,
            "bucket_rule": rng.choice(["hash", "opensora"]).item(),
            "shuffle_slice": int(rng.integers(1, 40)),
            "shuffle_window": int(rng.integers(20, 900)),
            "frame_interval": int(rng.integers(1, 3)),
            "short_clip": rng.choice(["skip", "pad", "loop"]).item(),
        }
        self.data = DataConfig(**{**settings, **fixed})
        self.weights = None
        if folders > 1 and rng.random() < 0.6:
            shares = rng.random(folders) + 0.1
            self.weights = (shares / shares.sum()).tolist()
        self.seed = int(rng.integers(0, 1000))

    def plan(self) -> Plan:
        return Plan.from_config(self.index, self.data, self.seed, FIT, weights=self.weights)  # type: ignore[arg-type]

    def walk(self, epochs: int) -> list[tuple[PlannedBatch, list[int]]]:
        """Batches with their rows, from position 0 on, of whole epochs."""
        plan, found, position = self.plan(), [], 0
        while True:
            batch = plan.batch_at(position)
            if batch.epoch >= epochs:
                return found
            size = batch.size or 1
            found.append((batch, plan.rows(position, size).tolist()))
            position += size


def random_buckets(rng: np.random.Generator) -> dict:
    names = rng.choice(
        ["144p", "256", "240p", "360p", "512", "480p", "300x500"], int(rng.integers(1, 4)), replace=False
    )
    content: dict = {}
    for name in names.tolist():
        frames = rng.choice([1, 5, 9, 17, 33, 49], int(rng.integers(1, 5)), replace=False)
        content[name] = {
            int(k): [float(rng.choice([1.0, 1.0, 0.6, 0.3])), int(rng.integers(1, 9))] for k in sorted(frames)
        }
        if rng.random() < 0.3:
            content[name][81] = [0.0, None]
        if 49 in content[name] and rng.random() < 0.5:
            content[name][49][0] = [content[name][49][0], 0.5]
    content["40x40"] = {1: [1.0, 2], 2: [1.0, 3]}  # so that no case is empty
    return content


@pytest.mark.parametrize("number", CASES)
def test_batches_are_whole_and_of_one_bucket(number: int, tmp_path: Path) -> None:
    case = Case(number, tmp_path)
    plan, position = case.plan(), 0
    for batch, rows in case.walk(3):
        assert batch.first == position and batch.size == batch.bucket.batch_size == len(rows)
        for i, row in enumerate(rows):
            slot = plan.slot(position + i)
            assert (slot.position, slot.row, slot.bucket, slot.epoch) == (position + i, row, batch.bucket, batch.epoch)
            frames = plan.frames_at(slot)
            assert len(frames) == batch.bucket.size.num_frames
            assert min(frames) >= 0 and max(frames) < case.index[row].clip.frames
        position += len(rows)


@pytest.mark.parametrize("number", CASES)
def test_an_epoch_uses_each_sample_once_but_the_left_over(number: int, tmp_path: Path) -> None:
    case = Case(number, tmp_path)
    batches, plan = case.walk(4), case.plan()
    for epoch in range(4):
        report = plan.epoch_report(epoch)
        assert report.samples == sum(b.samples for b in report.buckets) + sum(report.dropped.values())
        here = [(batch, rows) for batch, rows in batches if batch.epoch == epoch]
        used = [row for _, rows in here for row in rows]
        assert report.used == len(used) and report.batches == len(here)
        if case.weights is None:
            assert len(set(used)) == len(used) and report.samples == len(case.index)
        streams = [np.concatenate(parts).tolist() for parts in zip(*plan.window_rows(epoch), strict=True)]
        for one, stream in zip(report.buckets, streams, strict=True):
            rows = [row for batch, rows in here if batch.bucket == one.bucket for row in rows]
            assert one.samples == len(stream) and one.left_over == len(stream) - len(rows) < one.bucket.batch_size
            assert sorted(rows) == sorted(stream[: len(rows)])


@pytest.mark.parametrize("number", CASES)
def test_a_weighted_source_is_gone_through_before_it_repeats(number: int, tmp_path: Path) -> None:
    case = Case(number, tmp_path, bucket_config=None, short_clip="pad", num_frames=3)
    plan = case.plan()
    rows = plan.rows(0, 6 * plan.epoch_report().samples)
    start = 0
    for folder, size in enumerate(case.index.folder_sizes):
        inside = rows[(rows >= start) & (rows < start + size)]
        expected = size / len(case.index) if case.weights is None else case.weights[folder]
        assert len(inside) / len(rows) == pytest.approx(expected, abs=1 / plan.epoch_report().samples)
        # a window may mix the end of one visit with the start of the next
        counts = np.bincount(inside - start, minlength=size)
        assert counts.max() - counts.min() <= 1
        start += size


@pytest.mark.parametrize("number", CASES)
def test_any_position_of_a_new_plan_agrees_with_walking(number: int, tmp_path: Path) -> None:
    case = Case(number, tmp_path)
    batches = case.walk(4)
    rng = np.random.default_rng(number)
    for i in rng.integers(0, len(batches), 12):
        resumed = case.plan()
        batch, rows = batches[i]
        assert resumed.batch_at(batch.first) == batch and resumed.rows(batch.first, len(rows)).tolist() == rows
        tail = batches[i : i + 20]
        count = sum(len(rows) for _, rows in tail)
        assert resumed.rows(batch.first, count).tolist() == [row for _, rows in tail for row in rows]
        inside = batch.first + int(rng.integers(0, len(rows)))
        assert resumed.slot(inside).row == rows[inside - batch.first]
        if inside != batch.first:
            with pytest.raises(ValueError, match=f"no batch starts there; accepted: {batch.first} or"):
                resumed.batch_at(inside)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_queries_of_threads_in_any_order(number: int, tmp_path: Path) -> None:
    case = Case(number, tmp_path)
    end = sum(len(rows) for _, rows in case.walk(3))
    expected = case.plan().rows(0, end).tolist()
    shared = case.plan()
    positions = np.random.default_rng(number).permutation(end)[:300].tolist()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda p: shared.slot(p).row, positions)) == [expected[p] for p in positions]


@pytest.mark.parametrize("number", CASES)
def test_replacements_are_other_samples_of_the_bucket_until_there_are_none(number: int, tmp_path: Path) -> None:
    case = Case(number, tmp_path)
    plan = case.plan()
    batches = case.walk(1)
    streams = [set(np.concatenate(parts).tolist()) for parts in zip(*plan.window_rows(0), strict=True)]
    for batch, rows in batches[:: max(1, len(batches) // 5)]:
        others = streams[plan.buckets.index(batch.bucket)] - {rows[0]}
        again = case.plan()
        found = [plan.replacement(batch.first, attempt) for attempt in range(1, len(others) + 1)]
        assert {sample.row for sample in found} == others
        assert all((one.position, one.bucket, one.epoch) == (batch.first, batch.bucket, 0) for one in found)
        if others:
            assert again.replacement(batch.first, len(others)) == found[-1]
        with pytest.raises(ValueError, match="other samples in epoch 0"):
            plan.replacement(batch.first, len(others) + 1)

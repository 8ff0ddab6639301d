"""Random indexes, buckets and stop points: whatever the ranks, a run consumes the plan, each position once."""

import random
from pathlib import Path

import pytest
import yaml

from tests.data.array_index import random_index
from tests.data.test_plan_properties import FIT
from vidtron.config.data import DataConfig
from vidtron.data.planning.plan import Plan
from vidtron.training.rank_share import RankShare
from vidtron.training.step_plan import step_at, walk

BATCHES = (4, 8, 12)
"""Divisible by every number of replicas below."""


def random_plan(rng: random.Random, folder: Path, *, blend: bool = True) -> Plan:
    """A plan with buckets, or without; of folders that may be blended."""
    data = DataConfig(
        num_frames=9,
        height=48,
        width=72,
        shuffle_slice=rng.choice((1, 7, 40)),
        shuffle_window=rng.choice((20, 100, 10000)),
        frame_interval=rng.choice((1, 2)),
        short_clip=rng.choice(("skip", "pad")),
        bucket_rule=rng.choice(("hash", "opensora")),
    )
    if rng.random() < 0.8:
        data.bucket_config = folder / "buckets.yaml"
        config = {
            name: {frames: [rng.choice((1.0, 0.6)), rng.choice(BATCHES)] for frames in rng.sample((1, 5, 17, 33), k=3)}
            for name in rng.sample(("144p", "240p", "256", "360p", "64x96"), k=3)
        }
        data.bucket_config.write_text(yaml.safe_dump(config))
    folders = rng.choice((1, 2))
    index = random_index(rng.randrange(1000), rng.randrange(150, 400), folders)
    weights = [0.3, 0.7] if blend and folders == 2 and rng.random() < 0.5 else None
    return Plan.from_config(index, data, rng.randrange(100), FIT, weights=weights)  # type: ignore[arg-type]


def read_by_all_ranks(plan: Plan, replicas: int, ranks: int, micro: int, consumed: int, steps: int) -> list[int]:
    """Positions that the ranks of a layout read in the next steps, each with its own walk."""
    positions: list[int] = []
    for replica in range(replicas):
        for rank in range(ranks):
            share = RankShare(micro, replica, replicas, rank, ranks)
            positions += share.owned_positions(walk(lambda c: step_at(plan, lambda _: 8, c), consumed, steps))
    return positions


@pytest.mark.parametrize("seed", range(25))
def test_stops_and_layouts(seed, tmp_path):
    rng = random.Random(seed)
    plan = random_plan(rng, tmp_path)
    if plan.errors():
        pytest.skip("this configuration keeps no batch")
    steps = 12
    whole = list(walk(lambda c: step_at(plan, lambda _: 8, c), 0, steps))
    stops = sorted(rng.sample(range(1, steps), k=3))
    for first, last in zip([0, *stops], [*stops, steps], strict=True):
        replicas, ranks, micro = rng.choice((1, 2, 4)), rng.choice((1, 2, 3)), rng.choice((1, 2, 5))
        read = read_by_all_ranks(plan, replicas, ranks, micro, whole[first].consumed, last - first)
        end = whole[last - 1].consumed + whole[last - 1].size
        assert sorted(read) == list(range(whole[first].consumed, end))
    for step in whole:
        slots = [plan.slot(step.consumed + i) for i in range(step.size)]
        assert {slot.bucket for slot in slots} == {step.bucket}
        assert [slot.row for slot in slots] == plan.rows(step.consumed, step.size).tolist()


@pytest.mark.parametrize("seed", range(25, 40))
def test_every_sample_of_an_epoch_is_used_as_planned(seed, tmp_path):
    rng = random.Random(seed)
    plan = random_plan(rng, tmp_path, blend=False)
    if plan.errors():
        pytest.skip("this configuration keeps no batch")
    report = plan.epoch_report()
    rows = plan.rows(0, report.used).tolist()
    assert len(set(rows)) == len(rows)
    assert len(rows) + report.left_over + sum(report.dropped.values()) == len(plan.index)
    counted = {one.bucket.name: one.samples - one.left_over for one in report.buckets if one.batches}
    found: dict[str, int] = {}
    for position in range(report.used):
        name = plan.slot(position).bucket.name
        found[name] = found.get(name, 0) + 1
    assert found == counted

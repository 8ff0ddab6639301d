"""Runs over clips of several sizes, lengths and shapes, and images: the same numbers under every layout, the same
samples however many ranks and workers there are, and through stops."""

import json
from pathlib import Path

import pytest

from tests.distributed.layouts import LAYOUTS, Layout, small_run, train
from tests.shards import write_shards

STEPS = 9
CONFIG = """
144p:
  1: [1.0, 8]
  5: [1.0, 4]
  9: [0.7, 4]
"64x96":
  1: [1.0, 4]
  9: [1.0, 4]
"""
SOURCES = {  # clips, frames, height, width
    "long": (9, 20, 144, 256),
    "short": (9, 6, 144, 256),
    "tall": (9, 12, 256, 144),
    "small": (9, 12, 64, 96),
    "images": (16, 1, 192, 192),
    "small-images": (5, 1, 64, 96),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("mixed")
    return [
        str(write_shards(root / name, clips, frames=frames, height=height, width=width, first_seed=100 * number))
        for number, (name, (clips, frames, height, width)) in enumerate(SOURCES.items())
    ]


@pytest.fixture(scope="module")
def settings(folders, tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "buckets.yaml"
    path.write_text(CONFIG)
    return {
        "data_path": folders,
        "bucket_config": path,
        "global_batch_size": None,
        "micro_batch_size": 2,
        "train_iters": STEPS,
        "frame_masks": ["image_head", "0.3", "quarter_tail", "0.2", "random", "0.2"],
        "decoder": "pyav",
    }


def rows(folder: Path):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == "train"]


def consumed(written):
    """What the data were, step by step."""
    return [
        (
            row["consumed_samples"],
            row["bucket"],
            row["samples_digest"],
            row["planned_digest"],
            row["clips_digest"],
            row["global_batch_size"],
        )
        for row in written
    ]


@pytest.fixture(scope="module")
def baseline(pool, settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("baseline")
    result = pool.run(train, 1, small_run("", **{**settings, "save": folder}))[0]
    return result, rows(folder)


def test_the_run_meets_several_buckets(baseline):
    result, written = baseline
    assert len({row["bucket"] for row in written}) >= 4
    assert {row["global_batch_size"] for row in written} == {4, 8}
    assert all(row["samples_digest"] == row["planned_digest"] for row in written)
    assert len({row["samples_digest"] for row in written}) == STEPS
    assert len(set(result.losses)) == STEPS


@pytest.mark.parametrize("name", ["TP2+SP", "PP2", "PP2 interleaved", "CP2", "DP2", "DP4", "TP2+SP x CP2"])
def test_layouts(pool, settings, baseline, tmp_path, name):
    expected, written = baseline
    layout: Layout = LAYOUTS[name]
    run = small_run("", **{**settings, "save": tmp_path, "micro_batch_size": 1, **layout.flags})
    result = pool.run(train, layout.ranks, run)[0]
    assert consumed(rows(tmp_path)) == consumed(written)
    assert result.losses == pytest.approx(expected.losses, rel=1e-5)
    assert result.gradient_norms == pytest.approx(expected.gradient_norms, rel=1e-4)


@pytest.mark.parametrize(
    "way",
    [
        # (replicas, workers, prefetched samples, batches encoded ahead, steps before leaving)
        [(1, 3, 8, 2, 2), (2, 1, 4, 1, 3), (4, 0, 4, 0, 4)],
        [(4, 1, 2, 2, 5), (1, 0, 0, 1, 1), (2, 3, 3, 0, 3)],
    ],
)
def test_stops_and_resumes(pool, settings, baseline, tmp_path, way):
    expected, written = baseline
    losses, done = [], 0
    for replicas, workers, prefetch, ahead, steps in way:
        done += steps
        run = small_run(
            "",
            **{
                **settings,
                "save": tmp_path,
                "load": tmp_path,
                "num_workers": workers,
                "prefetch_samples": prefetch,
                "encode_ahead": ahead,
                "exit_interval": done,
            },
        )
        losses += pool.run(train, replicas, run)[0].losses
    assert consumed(rows(tmp_path)) == consumed(written)
    assert losses == pytest.approx(expected.losses, rel=1e-5)

"""Runs over shards with clips that cannot be read: the same numbers under every layout and through stops, each bad
sample told once and with its reason, and the end of all ranks where the data is not there."""

import contextlib
import io
import json
import os
from pathlib import Path

import pytest

from tests.distributed.layouts import LAYOUTS, Layout, small_run, train
from tests.distributed.rank_pool import RankFailure
from tests.distributed.run_faults import Fault, train_with
from tests.shards import write_shards
from vidtron import checkpoint
from vidtron.data.planning.plan import Plan
from vidtron.data.shards.index import Sample, ShardIndex
from vidtron.models.registry import family_of
from vidtron.training.training_plan import training_plan

STEPS = 12
"""An epoch has seven."""
CONFIG = """
"64x96":
  1: [1.0, 4]
  9: [1.0, 4]
"""
SOURCES = {  # clips, frames, height, width
    "long": (9, 20, 64, 96),
    "more": (4, 12, 64, 96),
    "tall": (8, 12, 96, 64),
    "images": (8, 1, 64, 96),
}


def write_all(root: Path) -> list[str]:
    return [
        str(write_shards(root / name, clips, frames=frames, height=height, width=width, first_seed=100 * number))
        for number, (name, (clips, frames, height, width)) in enumerate(SOURCES.items())
    ]


def overwrite(sample: Sample, extension: str) -> None:
    """Zeros, which are no video, in the place of a clip; 0xff, which is no UTF-8, in the place of a caption."""
    offset, size = sample.members[extension]
    with open(sample.shard, "r+b") as file:
        os.pwrite(file.fileno(), bytes(size) if extension == "mp4" else b"\xff" * size, offset)


def settings_of(folders, config: Path, **flags):
    return {
        "data_path": folders,
        "bucket_config": config,
        "global_batch_size": None,
        "micro_batch_size": 2,
        "train_iters": STEPS,
        "decoder": "pyav",
        **flags,
    }


def plan_of(run) -> Plan:
    return training_plan(run, family_of(run.model))


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "buckets.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def broken(tmp_path_factory, config):
    """Settings of runs over shards with bad samples, and the rows of these."""
    settings = settings_of(write_all(tmp_path_factory.mktemp("broken")), config)
    plan = plan_of(small_run("", **settings))
    rows = {
        plan.slot(0).row: "mp4",
        plan.slot(1).row: "mp4",  # in one batch, on another replica
        plan.replacement(1, 1).row: "mp4",  # and what takes its place
        plan.slot(14).row: "txt",
    }
    for row, extension in rows.items():
        overwrite(plan.index[row], extension)
    return settings, sorted(rows)


def train_and_listen(rank: int, run):
    """Job: (result, what was told)."""
    with contextlib.redirect_stdout(io.StringIO()) as told:
        result = train(rank, run)
    return result, [line for line in told.getvalue().splitlines() if "bad sample clip" in line]


def written(folder: Path):
    """What the data were, step by step; and the losses."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["kind"] == "train"]
    names = ("consumed_samples", "bucket", "samples_digest", "clips_digest", "planned_digest", "bad_samples")
    return [tuple(row[name] for name in names) for row in rows], [row["loss"] for row in rows]


def bad_samples(folder: Path):
    return checkpoint.read_state(checkpoint.latest(folder))["bad_samples"]


@pytest.fixture(scope="module")
def baseline(pool, broken, tmp_path_factory):
    folder = tmp_path_factory.mktemp("baseline")
    run = small_run("", **{**broken[0], "save": folder, "encode_ahead": 0})
    _, told = pool.run(train_and_listen, 1, run)[0]
    return written(folder), bad_samples(folder), told


def test_each_is_told_once(baseline, broken):
    (data, losses), bad, told = baseline
    assert sorted(sample["row"] for sample in bad) == broken[1]
    assert len(told) == len(bad)
    for sample, line in zip(bad, told, strict=True):
        assert f"{sample['key']} of {sample['shard']} (position {sample['position']}): {sample['reason']}" in line
        assert sample["reason"] not in ("", "it could not be decoded", "known to be bad")
    replaced = [used != planned for _, _, used, _, planned, _ in data]
    assert replaced[0] and any(replaced[7:]), "in the second epoch they are met again"
    assert len(set(losses)) == STEPS


@pytest.mark.parametrize("name", ["DP2", "TP2", "PP2", "TP2+SP x PP2"])
def test_layouts(pool, broken, baseline, tmp_path, name):
    (data, losses), bad, told = baseline
    layout: Layout = LAYOUTS[name]
    flags = {"save": tmp_path, "micro_batch_size": 1, "num_workers": 1, "encode_ahead": 2, **layout.flags}
    results = pool.run(train_and_listen, layout.ranks, small_run("", **{**broken[0], **flags}))
    assert written(tmp_path) == (data, pytest.approx(losses, rel=1e-5))
    assert bad_samples(tmp_path) == bad
    assert results[0][1] == told
    assert not any(heard for _, heard in results[1:])


@pytest.mark.parametrize("way", [[(4, 3), (1, 4), (2, 5)], [(1, 1), (2, 7), (4, 4)]])
def test_stops_and_resumes(pool, broken, baseline, tmp_path, way):
    """`way`: (replicas, steps)."""
    (data, losses), bad, told = baseline
    done, heard = 0, []
    for replicas, steps in way:
        done += steps
        flags = {"save": tmp_path, "load": tmp_path, "exit_interval": done, "num_workers": 2, "encode_ahead": 2}
        heard += pool.run(train_and_listen, replicas, small_run("", **{**broken[0], **flags}))[0][1]
    assert written(tmp_path) == (data, pytest.approx(losses, rel=1e-5))
    assert bad_samples(tmp_path) == bad
    assert heard == told


@pytest.mark.parametrize("name", ["DP2", "TP2", "PP2"])
def test_too_many(pool, broken, tmp_path, name):
    layout: Layout = LAYOUTS[name]
    run = small_run("", **{**broken[0], "max_bad_samples": 2, "num_workers": 1, **layout.flags})
    with pytest.raises(RankFailure) as failure:
        pool.run(train, layout.ranks, run)
    ends = [text.strip().splitlines()[-1] for text in str(failure.value).split("\nrank ") if text.strip()]
    assert len(ends) == layout.ranks
    assert len(set(ends)) == 1 and "more than --max-bad-samples 2" in ends[0], ends


def test_a_shard_vanishes(pool, config, tmp_path):
    settings = settings_of(write_all(tmp_path / "shards"), config)
    run = small_run("", **settings, save=tmp_path / "run", num_workers=1)
    assert pool.run(train_with, 2, run, Fault("shard gone", 3, 0))[0].iteration == STEPS
    bad = bad_samples(tmp_path / "run")
    assert bad and all(sample["reason"] == "the shard is gone" for sample in bad)
    assert {Path(sample["shard"]).parent.name for sample in bad} == {"more"}


@pytest.mark.parametrize("name", ["DP2", "TP2"])
def test_held_out_clips(pool, broken, config, tmp_path, name):
    """A bad one is told once, however many evaluations meet it, and their losses do not depend on the layout."""
    held_out = write_shards(tmp_path / "held out", 6)
    flags = {"valid_data_path": [str(held_out)], "num_frames": 9, "height": 32, "width": 48, "train_iters": 4}
    settings = {**broken[0], **flags, "eval_interval": 2, "eval_iters": 2}
    sample = ShardIndex.open([held_out])[2]
    overwrite(sample, "mp4")
    layout: Layout = LAYOUTS[name]
    (alone, told), *_ = pool.run(train_and_listen, 1, small_run("", **settings))
    (result, heard), *_ = pool.run(train_and_listen, layout.ranks, small_run("", **settings, **layout.flags))
    (line,) = [line for line in told if line.startswith("held-out clips: ")]
    assert f"bad sample clip002 of {sample.shard} (position 2): Invalid data" in line
    assert heard == told
    assert list(result.evaluations) == [2, 4]
    assert result.evaluations == pytest.approx(alone.evaluations, rel=1e-5)

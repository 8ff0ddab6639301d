import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidtron.data.fit import ClipFit
from vidtron.data.planning.buckets import BucketTable, parse_buckets
from vidtron.data.planning.buckets_assign import Clips, Dropped, Rule

ANY_SIZE = ClipFit(
    rounded_size=lambda height, width: (height, width),
    nearest_frames=lambda frames: (frames,),
    tokens=lambda size: 1,
    flops=lambda size: 1.0,
    errors=lambda size: [],
)
REFERENCE = json.loads((Path(__file__).parents[1] / "reference/data/opensora_bucket.json").read_text())


def clips(frames: Any, height: Any, width: Any, visit: int = 0) -> Clips:
    """Clips of rows 0, 1, ..."""
    columns = np.broadcast_arrays(np.atleast_1d(frames), height, width)
    frames_of, height_of, width_of = (np.array(column, np.int64) for column in columns)
    rows = np.arange(len(frames_of))
    return Clips(rows, np.full(len(rows), visit), frames_of, frames_of, height_of, width_of)


def names(table: BucketTable, numbers: np.ndarray) -> list[str]:
    return [table.buckets[i].name if i >= 0 else Dropped(i).name for i in numbers]


@pytest.mark.parametrize(
    "case", REFERENCE["assignments"], ids=lambda c: f"{c['config']}-{c['frame_interval']}-{c['seed']}"
)
def test_opensoras_assignments(case: dict) -> None:
    table = parse_buckets(REFERENCE["bucket_configs"][case["config"]], ANY_SIZE)
    assert table.shapes == case["num_bucket"]
    rule = Rule.opensora(table, case["seed"], case["frame_interval"])
    found = rule.assign(clips(*np.array(REFERENCE["table"]).T))
    buckets = [table.buckets[i] if i >= 0 else None for i in found]
    assert [b and [b.resolution, b.size.num_frames, b.ratio, *b.size, b.batch_size] for b in buckets] == case["result"]


def walk_alone(content: dict, row: int, frames: int, pixels: int, interval: int, seed: int) -> tuple | None:
    """(resolution, frames) of one video by the rule's text, with numpy's own generators, for named resolutions."""
    nominal = {"144p": 36864, "256": 65536, "240p": 102240, "512": 262144}
    order = sorted(content, key=lambda name: -nominal[name])
    numbers, shapes = {}, 0
    for name in order:
        for k in sorted(content[name], reverse=True):
            numbers[name, k] = len(numbers)
            shapes += 40 if name in ("256", "512") else 17
    for name in order:
        if pixels < 0.8 * nominal[name]:
            continue
        for k in sorted((k for k in content[name] if k != 1), reverse=True):
            keep = content[name][k][0]
            generator = np.random.default_rng(seed + row * shapes + numbers[name, k])
            if isinstance(keep, list):
                keep, keep_frames = keep
                if generator.random() > keep_frames:
                    continue
            if frames > k * interval:
                if keep >= 1 or generator.random() < keep:
                    return name, k
                break
    return None


def test_pairs_of_probabilities_draw_twice_from_one_generator() -> None:
    content = {
        "512": {9: [[0.5, 0.6], 1], 17: [[0.4, 0.3], 1], 33: [0.5, 1]},
        "144p": {5: [[1.0, 0.8], 1], 17: [0.6, 1]},
        "240p": {17: [[0.7, 0.5], 1], 40: [0.0, None]},
    }
    rng = np.random.default_rng(1)
    frames, height, width = rng.integers(2, 120, 3000), rng.integers(100, 900, 3000), rng.integers(100, 900, 3000)
    table = parse_buckets(content, ANY_SIZE)
    found = Rule.opensora(table, 77, 2).assign(clips(frames, height, width, visit=3))
    for row in range(3000):
        expected = walk_alone(content, row, frames[row], height[row] * width[row], 2, 77 + 3)
        bucket = table.buckets[found[row]] if found[row] >= 0 else None
        assert (bucket and (bucket.resolution, bucket.size.num_frames)) == expected


def test_the_hash_rule_takes_exact_lengths() -> None:
    table = parse_buckets({"256x256": {1: [1, 1], 5: [1, 1], 9: [1, 1]}}, ANY_SIZE)
    sizes = [1, 2, 4, 5, 8, 9, 10]
    skipped = names(table, Rule.hash(table, 0, stretch=False).assign(clips(sizes, 256, 256)))
    assert skipped == [f"256x256-{n}" for n in ("1f-1.00",)] + ["TOO_SHORT"] * 2 + [
        f"256x256-{n}f-1.00" for n in (5, 5, 9, 9)
    ]
    padded = names(table, Rule.hash(table, 0, stretch=True).assign(clips(sizes, 256, 256)))
    assert padded[1:3] == ["256x256-5f-1.00"] * 2 and padded[:1] + padded[3:] == skipped[:1] + skipped[3:]


def test_short_videos_take_the_shortest_bucket_they_are_large_enough_for() -> None:
    content = {"512x512": {17: [1, 1], 33: [1, 1]}, "256x256": {9: [1, 1], 1: [1, 1]}, "128x128": {5: [1, 1]}}
    table = parse_buckets(content, ANY_SIZE)
    rule = Rule.hash(table, 0, stretch=True)
    assert names(table, rule.assign(clips([20, 12, 7, 3], 512, 512))) == [
        "512x512-17f-1.00",
        "256x256-9f-1.00",
        "128x128-5f-1.00",
        "128x128-5f-1.00",
    ]
    without = parse_buckets({name: content[name] for name in ("512x512", "256x256")}, ANY_SIZE)
    assert names(without, Rule.hash(without, 0, stretch=True).assign(clips(3, 600, 600))) == ["256x256-9f-1.00"]


def test_reasons() -> None:
    table = parse_buckets({"512x512": {1: [0, None], 17: [0.0, None]}, "256x256": {9: [1, 1]}}, ANY_SIZE)
    rule = Rule.hash(table, 0, stretch=False)
    assert names(table, rule.assign(clips([1, 1, 30, 5, 30], [512, 256, 100, 256, 512], 256))) == [
        "NO_IMAGES",
        "NO_IMAGES",
        "TOO_SMALL",
        "TOO_SHORT",
        "256x256-9f-1.00",
    ]
    assert names(table, rule.assign(clips([1, 20, 10], 512, 512))) == [
        "NOT_KEPT",
        "256x256-9f-1.00",
        "256x256-9f-1.00",
    ]


def test_four_fifths_of_the_pixels_are_enough() -> None:
    table = parse_buckets({"100x100": {9: [1, 1]}}, ANY_SIZE)
    rule = Rule.hash(table, 0, stretch=False)
    assert names(table, rule.assign(clips(9, [80, 79], 100))) == ["100x100-9f-1.00", "TOO_SMALL"]


def test_shares_of_the_hash_rule() -> None:
    content = {"512x512": {9: [0.25, 1], 17: [[0.5, 0.2], 1]}, "256x256": {9: [1, 1]}}
    table = parse_buckets(content, ANY_SIZE)
    found = names(table, Rule.hash(table, 3, stretch=False).assign(clips(np.full(40_000, 20), 512, 512)))
    shares = {name: found.count(name) / 40_000 for name in set(found)}
    expected = {"512x512-17f-1.00": 0.1, "512x512-9f-1.00": 0.8 * 0.25, "256x256-9f-1.00": 0.7}
    assert shares == pytest.approx(expected, abs=0.015)
    again = Rule.hash(table, 3, stretch=False)
    assert names(table, again.assign(clips(np.full(40_000, 20), 512, 512))) == found
    assert names(table, again.assign(clips(np.full(40_000, 20), 512, 512, visit=1))) != found


def test_rules_that_draw_nothing_are_fixed() -> None:
    for content, fixed in [
        ({"144p": {17: [1, 2], 33: [0, None]}}, True),
        ({"144p": {17: [[1, 1.0], 2]}}, True),
        ({"144p": {17: [0.9, 2]}}, False),
        ({"144p": {17: [[1, 0.5], 2]}}, False),
    ]:
        assert Rule.hash(parse_buckets(content, ANY_SIZE), 0, True).is_fixed() == fixed


def test_seeds_out_of_range() -> None:
    with pytest.raises(ValueError, match="accepted with --bucket-rule opensora"):
        Rule.opensora(parse_buckets({"144p": {17: [1, 2]}}, ANY_SIZE), -1, 1)

"""Broken samples beside good ones: the run goes on, names and counts are right, good clips are untouched."""

import re
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

from tests.data.broken_clips import BROKEN, GOOD, padded
from tests.data.clip_files import build_shards, clip_bytes, shown_numbers
from tests.data.small_plan import SmallPlan
from vidtron.config.world import installed_packages
from vidtron.data.decoding.decode import DALI_PACKAGE, ClipDecoder
from vidtron.data.decoding.loader import Clip, ClipLoader
from vidtron.data.errors import ShardError
from vidtron.data.shards.index import Sample

needs_dali = pytest.mark.skipif(DALI_PACKAGE not in installed_packages(), reason="DALI is not installed")
DECODERS = ["pyav", pytest.param("dali", marks=needs_dali)]
CODECS = {"pyav": "h264", "dali": "vp9"}
KINDS = [*BROKEN, *GOOD]
# A healthy sample stands behind each broken one and takes its place.
NAMES = [name for number, kind in enumerate(KINDS) for name in (f"{number:02d} {kind}", f"{number:02d}z spare")]


@cache
def folder_of(root: Path, decoder: str) -> tuple[list[Sample], list[Sample]]:
    """(healthy samples, the same with their faults), one of each kind; each sample has a shard of its own."""
    codec = CODECS[decoder]
    content = padded(clip_bytes(40, codec))
    clips = {name.replace(" ", "_"): content for name in NAMES}
    healthy = list(build_shards(root / f"{decoder}-healthy", clips, samples_per_shard=1))
    broken = list(build_shards(root / f"{decoder}-broken", clips, samples_per_shard=1))
    for number, kind in enumerate(KINDS):
        broken[2 * number] = {**BROKEN, **GOOD}[kind](broken[2 * number], codec)
    return healthy, broken


@cache
def loaded(root: Path, decoder: str, workers: int, healthy: bool) -> dict[int, Clip]:
    samples = folder_of(root, decoder)[0 if healthy else 1]
    with ClipLoader(SmallPlan(samples), ClipDecoder(decoder), range(len(samples)), workers) as loader:
        return {clip.position: clip for clip in loader}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("decoder", DECODERS)
def test_all_positions_come_and_good_clips_are_untouched(root: Path, decoder: str, workers: int) -> None:
    clips, reference = loaded(root, decoder, workers, False), loaded(root, decoder, 0, True)
    assert list(clips) == list(range(2 * len(KINDS)))
    replaced = {position for position, clip in clips.items() if clip.bad}
    assert replaced == {2 * number for number in range(len(BROKEN))}
    for position, clip in clips.items():
        assert clip.frames_TCHW is not None
        assert shown_numbers(clip.frames_TCHW) == list(clip.frame_numbers)
        if position not in replaced:
            assert (clip.key, clip.caption) == (reference[position].key, reference[position].caption)
            assert torch.equal(clip.frames_TCHW, reference[position].frames_TCHW)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("kind", list(BROKEN))
def test_each_fault_is_named(root: Path, kind: str, decoder: str, workers: int) -> None:
    position = 2 * KINDS.index(kind)
    clip = loaded(root, decoder, workers, False)[position]
    (bad,) = clip.bad
    sample = folder_of(root, decoder)[1][position]
    assert (bad.position, bad.row, bad.key, bad.shard) == (position, position, sample.key, str(sample.shard))
    assert 0 < len(bad.reason) < 200 and "\n" not in bad.reason
    assert clip.row == position + 1 and clip.key.endswith("spare")
    assert bad == loaded(root, decoder, 0, False)[position].bad[0]


REASONS = {
    "empty file": "Invalid data|End of file",
    "sound only": "no video in it",
    "damage in needed pictures": "in a packet|damaged",
    "unknown codec": "codec",
    "no caption": "no .txt",
    "caption no UTF-8": "UTF-8",
    "fewer frames than known": "frame 9 of 40 is missing|frame 10 of 40 is missing|frame 8 of 40 is missing",
    "huge frames": "claims 1536 x 1024 pixels where the index says 72 x 48",
    "larger frames": "144 x 96 pixels where the index says 72 x 48",
}


@pytest.mark.parametrize("kind", list(REASONS))
def test_reasons_say_what_is_wrong(root: Path, kind: str) -> None:

    (bad,) = loaded(root, "pyav", 0, False)[2 * KINDS.index(kind)].bad
    assert re.search(REASONS[kind], bad.reason), bad.reason


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Healthy ones, with a shard each."""
    content = clip_bytes(22, "mjpeg")
    return list(build_shards(tmp_path, {f"c{i}": content for i in range(6)}, samples_per_shard=1))


def turned_into_a_folder(sample: Sample) -> Path:
    """Where the shard went whose name is now a folder's: reading it is an error that may pass."""
    shard = Path(sample.shard)
    away = shard.rename(shard.with_suffix(".away"))
    shard.mkdir()
    return away


@pytest.mark.parametrize("workers", [0, 2])
def test_a_read_error_that_passes_goes_unnoticed(samples: list[Sample], workers: int) -> None:
    def positions() -> Iterator[int]:
        yield 0
        yield 2
        shard, away = Path(samples[1].shard), turned_into_a_folder(samples[1])
        threading.Timer(0.3, lambda: (shard.rmdir(), away.rename(shard))).start()
        yield 1

    with ClipLoader(SmallPlan(samples), ClipDecoder("pyav"), positions(), workers, 2) as loader:
        assert [(clip.key, clip.bad) for clip in loader] == [("c0", ()), ("c2", ()), ("c1", ())]
    assert loader.read_seconds > 0.2


@pytest.mark.parametrize("workers", [0, 2])
def test_a_read_error_that_stays_stops_the_run(samples: list[Sample], workers: int) -> None:
    turned_into_a_folder(samples[1])
    with ClipLoader(SmallPlan(samples), ClipDecoder("pyav"), range(3), workers) as loader:
        assert next(loader).key == "c0"
        with pytest.raises(ShardError, match=Path(samples[1].shard).name):
            next(loader)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_that_vanishes_while_running(samples: list[Sample], workers: int) -> None:
    with ClipLoader(SmallPlan(samples), ClipDecoder("pyav"), range(12), workers, 2) as loader:
        clips = [next(loader) for _ in range(3)]
        Path(samples[4].shard).unlink()
        clips += loader
    assert [clip.row for clip in clips[5:]] == [5, 0, 1, 2, 3, 5, 5]
    (bad,) = clips[10].bad
    assert (bad.key, bad.reason) == ("c4", "the shard is gone")

import gc
import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.data.clip_files import build_shards, clip_bytes, shown_numbers
from tests.data.odd_samples import OddSample
from tests.data.small_plan import SmallPlan, SmallPlanned
from vidtron.config.data import ClipSize, DataConfig
from vidtron.config.world import installed_packages
from vidtron.data.decoding import shared_frames
from vidtron.data.decoding.decode import DALI_PACKAGE, ClipDecoder
from vidtron.data.decoding.loader import ClipLoader
from vidtron.data.errors import ShardError
from vidtron.data.shards.index import ShardIndex

PYAV = ClipDecoder("pyav")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    clips = {f"c{i}": clip_bytes(22 + i, "mjpeg") for i in range(5)}
    return build_shards(tmp_path_factory.mktemp("loader"), clips, samples_per_shard=2)


@pytest.fixture
def plan(index: ShardIndex) -> SmallPlan:
    return SmallPlan(index)


def odd_plan(index: ShardIndex, note: Path, deeds: dict[int, str]) -> SmallPlan:
    samples: list[Any] = list(index)
    for row, deed in deeds.items():
        samples[row] = OddSample(samples[row], deed, note)
    return SmallPlan(samples)  # type: ignore[arg-type]


def clip_threads() -> int:
    return sum(thread.name.startswith("clip") for thread in threading.enumerate())


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_clips_come_in_the_order_of_positions(plan: SmallPlan, workers: int) -> None:
    positions = [4, 0, 17, 3, 3, 900, 5]
    with ClipLoader(plan, PYAV, positions, workers) as loader:
        clips = list(loader)
    assert [clip.position for clip in clips] == positions
    for clip in clips:
        assert (clip.row, clip.key, clip.bad) == (clip.position % 5, f"c{clip.row}", ())
        assert clip.caption == f"caption of {clip.key}" and clip.cached is None
        assert (clip.size, clip.bucket) == (ClipSize(9, 48, 72), plan.bucket)
        assert list(clip.frame_numbers) == plan.frames_at(plan.slot(clip.position))
        assert shown_numbers(clip.frames_TCHW) == list(clip.frame_numbers)
    assert clip_threads() == 0
    assert loader.decode_seconds > 0 and loader.read_seconds > 0


def test_order_holds_when_later_clips_are_ready_first(index: ShardIndex, tmp_path: Path) -> None:
    plan = odd_plan(index, tmp_path / "note", {0: "slow"})
    with ClipLoader(plan, PYAV, range(6), num_workers=3) as loader:
        assert [clip.position for clip in loader] == list(range(6))
    assert loader.wait_seconds > 0.1 and loader.read_seconds > 0.5


def test_prefetching_is_bounded_and_endless_positions_are_fine(index: ShardIndex, tmp_path: Path) -> None:
    note, taken = tmp_path / "note", []

    def positions() -> Iterator[int]:
        for position in itertools.count():
            taken.append(position)
            yield position

    plan = odd_plan(index, note, dict.fromkeys(range(5), "slow"))
    with ClipLoader(plan, PYAV, positions(), num_workers=2, prefetch_samples=3) as loader:
        wait_for(lambda: note.exists() and len(note.read_text().splitlines()) >= 3)
        time.sleep(0.7)
        assert len(note.read_text().splitlines()) == 3 and len(taken) == 3
        assert next(loader).position == 0
        assert len(taken) == 4
    assert clip_threads() == 0


def wait_for(condition: Any, seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_prefetched_clips_cost_no_waiting(plan: SmallPlan) -> None:
    with ClipLoader(plan, PYAV, range(6), num_workers=1, prefetch_samples=6) as loader:
        next(loader)
        wait_for(lambda: all(clip.done() for clip in loader._pending))
        waits = []
        for _ in range(5):
            before = loader.wait_seconds
            next(loader)
            waits.append(loader.wait_seconds - before)
        assert min(waits) < 0.1  # on a busy machine a process may stand still at any line, but not at each


@pytest.mark.parametrize("workers", [0, 2])
def test_known_bad_rows_are_replaced_untried(index: ShardIndex, tmp_path: Path, workers: int) -> None:
    plan = odd_plan(index, tmp_path / "note", {1: "bug", 2: "bug"})
    known = {1}
    with ClipLoader(plan, PYAV, [0, 1, 6], workers, 1, known_bad=known) as loader:
        known.add(2)  # it may grow while the loader works
        clips = list(loader)
    assert [clip.row for clip in clips] == [0, 3, 3]
    assert [[bad.row for bad in clip.bad] for clip in clips] == [[], [1, 2], [1, 2]]
    assert clips[1].bad[0].key == "c1" and clips[1].bad[0].reason == "known to be bad"
    assert not (tmp_path / "note").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_good_is_left(plan: SmallPlan, workers: int) -> None:
    with ClipLoader(plan, PYAV, [2], workers, known_bad=range(5)) as loader:
        with pytest.raises(ShardError, match=r"none of 5 samples of bucket only .* position 2 .*known to be bad"):
            next(loader)


@pytest.mark.parametrize("workers", [0, 2])
def test_cached_clips_are_not_decoded(index: ShardIndex, tmp_path: Path, workers: int) -> None:
    plan = odd_plan(index, tmp_path / "note", {1: "bug"})

    def cached(planned: SmallPlanned, numbers: list[int]) -> Any:
        return ("latents", numbers) if planned.row == 1 else None

    with ClipLoader(plan, PYAV, [0, 1], workers, cached=cached) as loader:  # type: ignore[arg-type]
        plain, from_cache = loader
    assert plain.cached is None and plain.frames_TCHW is not None
    assert from_cache.cached == ("latents", list(from_cache.frame_numbers)) and from_cache.frames_TCHW is None
    assert (from_cache.key, from_cache.caption) == ("c1", "")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("deed", "kind"), [("bug", KeyError), ("refuse", ShardError)])
def test_other_errors_come_through_in_their_place(
    index: ShardIndex, tmp_path: Path, workers: int, deed: str, kind: type[Exception]
) -> None:
    plan = odd_plan(index, tmp_path / "note", {1: deed})
    with ClipLoader(plan, PYAV, range(3), workers) as loader:
        assert next(loader).key == "c0"
        with pytest.raises(kind) as caught:
            next(loader)
        assert any("while loading sample c1 of" in note for note in caught.value.__notes__)
        assert [clip.key for clip in loader] == ["c2"]


def test_clips_outlive_the_loader_and_memory_is_used_again(plan: SmallPlan) -> None:
    kept = []
    with ClipLoader(plan, PYAV, range(40), num_workers=2) as loader:
        files = []
        for clip in loader:
            if clip.position < 3:
                kept.append(clip)
            files.append(len(os.listdir("/proc/self/fd")))
        del clip
    assert max(files) <= min(files) + 10
    for clip in kept:
        assert shown_numbers(clip.frames_TCHW) == list(clip.frame_numbers)
    # Nothing of it has a name that could stay behind.
    assert "vidtron-frames (deleted)" in Path("/proc/self/maps").read_text()
    assert "vidtron" not in " ".join(os.listdir("/dev/shm"))
    before = len(os.listdir("/proc/self/fd"))
    del kept, clip
    assert len(os.listdir("/proc/self/fd")) == before - 6  # the memory's and its mapping's, of each


def test_many_clips_may_be_held(plan: SmallPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_frames, "MOST_LENT", 2)
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    with ClipLoader(plan, PYAV, range(12), num_workers=1) as loader:
        clips = list(loader)
    assert len(os.listdir("/proc/self/fd")) == before + 4
    for clip in clips:
        assert shown_numbers(clip.frames_TCHW) == list(clip.frame_numbers)


def test_closing(index: ShardIndex, tmp_path: Path) -> None:
    gc.collect()
    files = len(os.listdir("/proc/self/fd"))
    plan = odd_plan(index, tmp_path / "note", dict.fromkeys(range(5), "hang"))
    loader = ClipLoader(plan, PYAV, itertools.count(), 2, 4)
    wait_for(lambda: (tmp_path / "note").exists())
    start = time.monotonic()
    loader.close()
    loader.close()
    assert time.monotonic() - start < 300  # the clip hangs for 1000 s
    assert clip_threads() == 0
    with pytest.raises(RuntimeError, match="closed"):
        next(loader)
    del loader
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == files


def test_a_forgotten_loader_leaves_nothing(plan: SmallPlan) -> None:
    loader = ClipLoader(plan, PYAV, itertools.count(), 2, 4)
    next(loader)
    del loader

    def gone() -> bool:
        gc.collect()
        return clip_threads() == 0

    wait_for(gone)


def test_a_configuration_makes_its_decoder(plan: SmallPlan) -> None:
    with ClipLoader(plan, DataConfig(decoder="pyav"), [0], 1) as loader:
        assert next(loader).frames_TCHW.shape == (9, 3, 48, 72)
    assert loader.decoder.decoded == {"dali": 0, "pyav": 1}


def test_negative_numbers_are_refused(plan: SmallPlan) -> None:
    with pytest.raises(ValueError, match="accepted: 0 or more"):
        ClipLoader(plan, PYAV, [0], -1)


@pytest.mark.skipif(DALI_PACKAGE not in installed_packages(), reason="DALI is not installed")
def test_dali_works_in_processes(plan: SmallPlan) -> None:
    decoder = ClipDecoder("dali")
    with ClipLoader(plan, decoder, range(20), num_workers=1) as loader:
        clips = list(loader)
    with ClipLoader(plan, decoder, range(20), num_workers=0) as loader:
        for ours, theirs in zip(clips, loader, strict=True):
            assert torch.equal(ours.frames_TCHW, theirs.frames_TCHW)
    assert decoder.decoded == {"dali": 40, "pyav": 0} and not decoder.rescued

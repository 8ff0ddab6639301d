import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.data.clip_files import build_shards, clip_bytes, shown_numbers
from vidtron.config.data import DataConfig
from vidtron.config.world import installed_packages
from vidtron.data.decode import DALI_PACKAGE, BadClipError, ClipDecoder
from vidtron.data.index import Sample, ShardIndex
from vidtron.data.loader import ClipLoader
from vidtron.data.plan import Plan


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    clips = {f"c{i}": clip_bytes(12 + i, "mjpeg") for i in range(5)}
    return build_shards(tmp_path_factory.mktemp("loader"), clips, samples_per_shard=2)


@pytest.fixture
def plan(index: ShardIndex) -> Plan:
    return Plan(index, seed=5, num_frames=9)


DECODER = ClipDecoder(48, 72, "pyav")


def clip_threads() -> int:
    return sum(thread.name.startswith("clip") for thread in threading.enumerate())


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_clips_come_in_the_order_of_positions(plan: Plan, workers: int) -> None:
    positions = [4, 0, 17, 3, 3, 900, 5]
    with ClipLoader(plan, DECODER, positions, workers) as loader:
        clips = list(loader)
    assert [clip.position for clip in clips] == positions
    for clip in clips:
        sample = plan.sample(clip.position)
        assert (clip.key, clip.caption) == (sample.key, f"caption of {sample.key}")
        assert shown_numbers(clip.frames_TCHW) == plan.frames_at(clip.position)
    assert clip_threads() == 0


class SlowDecoder(ClipDecoder):
    """Takes longest for the first clips, and counts."""

    def __init__(self) -> None:
        super().__init__(48, 72, "pyav")
        self.started = 0
        self.lock = threading.Lock()

    def decode(self, sample: Sample, numbers: list[int]) -> torch.Tensor:
        with self.lock:
            self.started += 1
            turn = self.started
        time.sleep(0.2 / turn)
        return super().decode(sample, numbers)


def test_order_holds_when_later_clips_are_ready_first(plan: Plan) -> None:
    with ClipLoader(plan, SlowDecoder(), range(6), num_workers=3) as loader:
        assert [clip.position for clip in loader] == list(range(6))
    assert loader.wait_seconds > 0.1


def test_prefetching_is_bounded_and_endless_positions_are_fine(plan: Plan) -> None:
    decoder, taken = SlowDecoder(), []

    def positions() -> Iterator[int]:
        for position in itertools.count():
            taken.append(position)
            yield position

    with ClipLoader(plan, decoder, positions(), num_workers=2, prefetch_samples=3) as loader:
        deadline = time.monotonic() + 10
        while decoder.started < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        assert decoder.started == 3 and len(taken) == 3
        assert next(loader).position == 0
        assert len(taken) == 4
    assert clip_threads() == 0


def test_prefetched_clips_cost_no_waiting(plan: Plan) -> None:
    with ClipLoader(plan, DECODER, range(3), num_workers=1, prefetch_samples=3) as loader:
        next(loader)
        time.sleep(0.5)
        waited = loader.wait_seconds
        next(loader)
        assert loader.wait_seconds - waited < 0.1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_clip_surfaces_in_its_place(tmp_path: Path, workers: int) -> None:
    index = build_shards(tmp_path, {name: clip_bytes(9, "h264") for name in "abcd"})
    offset, size = index[1].members["mp4"]
    shard = bytearray(index[1].shard.read_bytes())
    shard[offset : offset + size] = bytes(size)
    index[1].shard.write_bytes(shard)
    plan = Plan(index, 0, 9, sequential=True)
    with ClipLoader(plan, DECODER, range(4), workers) as loader:
        assert next(loader).key == "a"
        with pytest.raises(BadClipError, match="sample b of"):
            next(loader)
        assert [clip.key for clip in loader] == ["c", "d"]


def test_other_errors_name_the_sample(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(sample: Sample, numbers: list[int]) -> torch.Tensor:
        raise KeyError("a bug")

    decoder = ClipDecoder(48, 72, "pyav")
    monkeypatch.setattr(decoder, "decode", fail)
    with ClipLoader(plan, decoder, [3], 1) as loader, pytest.raises(KeyError) as caught:
        next(loader)
    assert f"while loading sample {plan.sample(3).key} of" in caught.value.__notes__[0]


def test_closing(plan: Plan) -> None:
    loader = ClipLoader(plan, SlowDecoder(), itertools.count(), 2, 4)
    loader.close()
    loader.close()
    assert clip_threads() == 0
    with pytest.raises(RuntimeError, match="closed"):
        next(loader)


def test_a_configuration_makes_its_decoder(plan: Plan) -> None:
    data = DataConfig(num_frames=9, height=24, width=36, decoder="pyav")
    with ClipLoader(plan, data, [0], 1) as loader:
        assert next(loader).frames_TCHW.shape == (9, 3, 24, 36)


def test_negative_numbers_are_refused(plan: Plan) -> None:
    with pytest.raises(ValueError, match="accepted: 0 or more"):
        ClipLoader(plan, DECODER, [0], -1)


@pytest.mark.skipif(DALI_PACKAGE not in installed_packages(), reason="DALI is not installed")
def test_dali_works_in_several_threads(plan: Plan) -> None:
    decoder = ClipDecoder(48, 72, "dali")
    with ClipLoader(plan, decoder, range(20), num_workers=3) as loader:
        for clip in loader:
            assert shown_numbers(clip.frames_TCHW) == plan.frames_at(clip.position)
    assert decoder.decoded == {"dali": 20, "pyav": 0} and not decoder.rescued

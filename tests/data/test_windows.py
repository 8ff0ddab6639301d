import numpy as np
import pytest

from vidtron.data.planning.windows import available_frames, available_frames_of, frame_numbers
from vidtron.data.shards.index import ClipFacts


def clip(frames: int, fps: float = 10.0, times: tuple[float, ...] | None = None) -> ClipFacts:
    return ClipFacts(72, 48, frames, fps, frames / fps, "h264", "yuv420p", True, times)


@pytest.mark.parametrize("where", [0.0, 0.3, 0.5, 0.999999])
@pytest.mark.parametrize("frames", [5, 6, 40])
def test_consecutive_frames_lie_inside_the_clip(frames: int, where: float) -> None:
    numbers = frame_numbers(clip(frames), 5, None, "skip", where)
    assert numbers == list(range(numbers[0], numbers[0] + 5))
    assert numbers[0] >= 0 and numbers[-1] < frames


def test_windows_reach_both_ends_equally_often() -> None:
    starts = [frame_numbers(clip(8), 5, None, "pad", i / 1000)[0] for i in range(1000)]
    assert {start: starts.count(start) for start in range(4)} == {0: 250, 1: 250, 2: 250, 3: 250}


def test_the_middle() -> None:
    assert frame_numbers(clip(9), 5, None, "pad", 0.5) == [2, 3, 4, 5, 6]
    assert frame_numbers(clip(41), 5, 5.0, "pad", 0.5) == [16, 18, 20, 22, 24]


@pytest.mark.parametrize(
    ("fps", "expected"),
    [(10.0, [0, 1, 2, 3, 4]), (5.0, [0, 2, 4, 6, 8]), (20.0, [0, 0, 1, 1, 2]), (4.0, [0, 2, 5, 7, 10])],
)
def test_frames_at_a_rate_are_the_last_ones_shown(fps: float, expected: list[int]) -> None:
    assert frame_numbers(clip(40), 5, fps, "skip", 0.0) == expected


def test_irregular_times_are_followed() -> None:
    times = (0.0, 0.1, 0.2, 0.6, 0.7, 1.2)
    assert frame_numbers(clip(6, 5.0, times), 5, 4.0, "skip", 0.0) == [0, 2, 2, 4, 4]
    assert available_frames(clip(6, 5.0, times), 4.0) == 5


def test_rounded_rates_do_not_cost_a_frame() -> None:
    # 30000/1001 frames a second asked of a clip that has just that
    facts = clip(17, 29.97003)
    assert available_frames(facts, 30000 / 1001) == 17
    assert frame_numbers(facts, 17, 30000 / 1001, "skip", 0.7) == list(range(17))


def test_short_clips() -> None:
    assert frame_numbers(clip(3), 7, None, "pad", 0.9) == [0, 1, 2, 2, 2, 2, 2]
    assert frame_numbers(clip(3), 7, None, "loop", 0.9) == [0, 1, 2, 0, 1, 2, 0]
    assert frame_numbers(clip(5), 5, 5.0, "pad", 0.9) == [0, 2, 4, 4, 4]
    assert frame_numbers(clip(5), 5, 5.0, "loop", 0.9) == [0, 2, 4, 0, 2]
    assert frame_numbers(clip(1), 3, 8.0, "pad", 0.2) == [0, 0, 0]
    with pytest.raises(ValueError, match="3 of 7 frames"):
        frame_numbers(clip(3), 7, None, "skip", 0.0)


@pytest.mark.parametrize("where", [0.0, 0.5, 0.999999])
@pytest.mark.parametrize(("frames", "interval"), [(9, 2), (10, 2), (40, 3), (5, 1), (17, 4)])
def test_frame_intervals(frames: int, interval: int, where: float) -> None:
    numbers = frame_numbers(clip(frames), 5, None, "skip", where, interval)
    assert numbers == list(range(numbers[0], numbers[0] + 4 * interval + 1, interval))
    assert numbers[0] >= 0 and numbers[-1] < frames


def test_short_clips_at_an_interval() -> None:
    assert available_frames(clip(8), None, 2) == 4 and available_frames(clip(9), None, 2) == 5
    assert frame_numbers(clip(8), 6, None, "pad", 0.9, 2) == [0, 2, 4, 6, 6, 6]
    assert frame_numbers(clip(8), 6, None, "loop", 0.9, 2) == [0, 2, 4, 6, 0, 2]
    with pytest.raises(ValueError, match="4 of 5 frames"):
        frame_numbers(clip(8), 5, None, "skip", 0.0, 2)


@pytest.mark.parametrize(("fps", "interval"), [(None, 1), (None, 3), (8.0, 1), (30000 / 1001, 1), (0.3, 1)])
def test_frames_of_many_clips(fps: float | None, interval: int) -> None:
    clips = [clip(frames, rate) for frames in range(1, 60) for rate in (10.0, 23.976, 29.97003)]
    frames = np.array([one.frames for one in clips], np.int32)
    rates = np.array([one.fps for one in clips])
    expected = [available_frames(one, fps, interval) for one in clips]
    assert available_frames_of(frames, rates, fps, interval).tolist() == expected

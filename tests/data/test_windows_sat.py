import json
from pathlib import Path

import numpy as np
import pytest

from tests.data.array_index import ArrayIndex
from vidtron.config.data import DataConfig
from vidtron.data.planning.plan import Plan
from vidtron.data.planning.windows import sat_frame_numbers, sat_gives_frames

CASES = json.loads((Path(__file__).parents[1] / "reference/data/sat_clip_frames.json").read_text())["cases"]


@pytest.mark.parametrize(
    "case", CASES, ids=lambda c: f"{c['frames']}-{c['video_fps']:g}-{c['fps']}-{c['max_num_frames']}"
)
def test_the_frames_of_sats_dataset(case: dict) -> None:
    wanted = (case["frames"], case["video_fps"], case["max_num_frames"], case["fps"])
    if "raises" in case:
        with pytest.raises(ValueError, match="frames a second where"):
            sat_frame_numbers(*wanted)
    else:
        assert sat_frame_numbers(*wanted) == case["indices"]


def _upstream(frames: int, video_fps: float, most: int, fps: float) -> list[int]:
    """Written down from the description of SFTDataset, with its errors."""
    if frames / video_fps * fps > most:
        start, end = 3, int(3 + most / fps * video_fps)
        numbers = np.arange(start, end, (end - start) // most).tolist()
        shown = list(range(start, min(end, frames)))
        numbers = [shown[number - start] for number in numbers]
    elif frames > most:
        numbers = np.arange(3, frames - 3, max((frames - 6) // most, 1)).tolist()
    else:
        count = frames - 6
        count = count - 3 if count % 4 == 0 else count - count % 4 + 1
        numbers = list(range(3, 3 + count))
    return [numbers[min(place, len(numbers) - 1)] for place in range(most)]


def test_every_short_length_and_many_rates() -> None:
    refused = 0
    for most, fps in ((1, 8.0), (5, 4.0), (9, 8.0), (49, 8.0), (81, 16.0), (13, 7.5)):
        for rate in (1.0, 4.0, 7.99, 8.0, 12.5, 23.976, 25.0, 29.97003, 60.0):
            lengths = np.arange(1, 260)
            given = sat_gives_frames(lengths, np.full(len(lengths), rate), most, fps)
            for frames in lengths.tolist():
                try:
                    expected = _upstream(frames, rate, most, fps)
                except (IndexError, ZeroDivisionError):
                    refused += 1
                    assert not given[frames - 1]
                    with pytest.raises(ValueError, match=r"where|too few"):
                        sat_frame_numbers(frames, rate, most, fps)
                else:
                    assert given[frames - 1]
                    assert sat_frame_numbers(frames, rate, most, fps) == expected
    assert refused > 500


@pytest.mark.parametrize("sequential", [False, True])
def test_a_plan_leaves_out_what_the_rule_does_not_take(sequential: bool) -> None:
    data = DataConfig(num_frames=9, clip_window="sat", fps=8.0)
    index = ArrayIndex([1, 6, 7, 20, 40, 12], fps=10.0)
    plan = Plan.from_config(index, data, 1, sequential=sequential)
    report = plan.epoch_report()
    assert report.dropped == {"not taken by SAT's rule: too short, or fewer frames a second than --fps": 2}
    shown = {sample.row: plan.frames_at(sample) for sample in map(plan.slot, range(4))}
    assert shown == {
        0: [0] * 9,
        2: [3] * 9,
        3: list(range(3, 12)),
        4: list(range(3, 12)),
    }
    assert plan.frames_at(plan.slot(4 + 1)) == shown[plan.slot(5).row]  # nothing is drawn for an epoch


def test_a_rate_that_no_clip_has() -> None:
    data = DataConfig(num_frames=9, clip_window="sat", fps=24.0)
    plan = Plan.from_config(ArrayIndex([40, 50], fps=10.0), data, 1)
    assert plan.errors() == [
        "none of the 2 clips in shards0 gives frames by SAT's rule; 2 not taken by SAT's rule: too short, or fewer "
        "frames a second than --fps"
    ]

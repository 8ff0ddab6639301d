"""Given frames as Open-Sora's strategies name them: its own results, and what is refused."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from vidtron.inference.frame_strategy import GivenFrames, loop_prompts, parse_strategy, place_frames

ORACLE = json.loads((Path(__file__).parents[1] / "reference/data/opensora/masks.json").read_text())


@pytest.mark.parametrize("text", ORACLE["parse"])
def test_parsed_as_open_sora(text):
    assert [[float(number) for number in run] for run in ORACLE["parse"][text]] == [
        list(dataclasses.astuple(given)) for given in parse_strategy(text)
    ]


def frames(values):
    return torch.tensor(values, dtype=torch.float32)[:, None, None, None].expand(-1, 2, 3, 1)


REFERENCES = [frames([100.0 * (r + 1) + j for j in range(8)]) for r in range(3)]


@pytest.mark.parametrize("case", ORACLE["apply"], ids=lambda case: str(case["strategy"]))
def test_placed_as_open_sora(case):
    noise = frames(list(range(16)))
    placed, share = place_frames(noise, REFERENCES, parse_strategy(case["strategy"]), case["loop"])
    assert torch.equal(placed, frames(case["z"]))
    torch.testing.assert_close(share, torch.tensor(case["mask"]))
    assert torch.equal(noise, frames(list(range(16))))


def test_a_later_clip_takes_its_own_runs():
    placed, share = place_frames(frames([0.0] * 6), REFERENCES, parse_strategy("0,0,0,-1,1;1,2,-4,0,4,0.5"), 1)
    assert torch.equal(placed, frames([304.0, 305.0, 306.0, 307.0, 0.0, 0.0]))
    assert share.tolist() == [0.5] * 4 + [1.0] * 2


@pytest.mark.parametrize("text", ORACLE["prompts"])
def test_prompts_of_open_sora(text):
    """Open-Sora cleans them too, which for these is lower case."""
    expected = ORACLE["prompts"][text]
    assert [part.lower() for part in loop_prompts(text, len(expected))] == expected


@pytest.mark.parametrize("text", ["", None])
def test_no_strategy(text):
    assert parse_strategy(text) == []


@pytest.mark.parametrize("text", ["a", "0,0,0,0,0", "0;", "-1", "0,-1", "0,0,0,0,1,1.5", "0,0,0,0,1,0,0", "0.5"])
def test_strategies_that_cannot_be(text):
    with pytest.raises(ValueError, match="accepted: 1 to 6 numbers loop,reference,reference_start"):
        parse_strategy(text)


def test_a_run_ends_with_its_reference_and_with_the_clip():
    noise = frames([0.0] * 6)
    placed, share = place_frames(noise, REFERENCES, [GivenFrames(reference_start=6, target_start=4, length=5)], 0)
    assert torch.equal(placed, frames([0.0, 0.0, 0.0, 0.0, 106.0, 107.0]))
    assert share.tolist() == [1, 1, 1, 1, 0, 0]


def test_one_frame_stands_for_several():
    given = GivenFrames(reference_start=-1, target_start=1, length=3, edit=0.5)
    placed, share = place_frames(frames([0.0] * 6), REFERENCES, [given], 0)
    assert torch.equal(placed, frames([0.0, 107.0, 107.0, 107.0, 0.0, 0.0]))
    assert share.tolist() == [1, 0.5, 0.5, 0.5, 1, 1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (GivenFrames(reference=3), "there are 3 references, counted from 0"),
        (GivenFrames(reference_start=-9), "start -9 of 8 latent frames; accepted: -8 to 7"),
        (GivenFrames(target_start=6), "start 6 of 6 latent frames; accepted: -6 to 5"),
        (GivenFrames(target_start=4, length=3), "3 latent frames for 2; accepted: 1 or as many"),
    ],
)
def test_runs_that_are_not_there(given, message):
    with pytest.raises(ValueError, match=message):
        place_frames(frames([0.0] * 6), REFERENCES, [given], 0)


@pytest.mark.parametrize("text", ["|0|a|2", "|0|a|0|b", "|0|a|5|b", "|0|a|x|b", "|0|a|3|b|2|c"])
def test_prompts_that_cannot_be(text):
    with pytest.raises(ValueError, match=r"accepted: \|0\|TEXT\|N\|TEXT"):
        loop_prompts(text, 4)

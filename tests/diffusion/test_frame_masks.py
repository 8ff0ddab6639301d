"""Training masks: Open-Sora's own draws, the shares of the strategies, and what no mask may do."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from vidtron.diffusion.frame_masks import STRATEGIES, draw_frame_mask

ORACLE = json.loads((Path(__file__).parents[1] / "reference/data/opensora/masks.json").read_text())


def no_numbers(count):
    raise AssertionError("these strategies draw from Python's random alone")


def text(mask):
    return "".join("1" if learned else "0" for learned in mask)


@pytest.mark.parametrize(("ratios", "draws"), [("ratios", "draws"), ("uniform_ratios", "uniform_draws")])
def test_draws_of_open_sora(ratios, draws):
    strategies = [
        (name.removeprefix("mask_").replace("no", "identity"), ratio) for name, ratio in ORACLE[ratios].items()
    ]
    assert len(ORACLE[draws]) == 20
    for case in ORACLE[draws]:
        draw = random.Random(case["seed"])
        masks = [text(draw_frame_mask(strategies, case["num_frames"], draw, no_numbers)) for _ in case["masks"]]
        assert masks == case["masks"], case


def draws(name, frames, count=300):
    draw = random.Random(7)
    return {
        text(draw_frame_mask([(name, 1.0)], frames, draw, lambda n: [draw.random() for _ in range(n)]))
        for _ in range(count)
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("identity", {"11111111"}),
        ("image_head", {"01111111"}),
        ("image_tail", {"11111110"}),
        ("image_head_tail", {"01111110"}),
        ("image_random", {"1" * i + "0" + "1" * (7 - i) for i in range(8)}),
        ("quarter_head", {"01111111", "00111111"}),
        ("quarter_tail", {"11111110", "11111100"}),
        ("quarter_head_tail", {"01111110", "00111100"}),
        (
            "quarter_random",
            {"1" * i + "0" + "1" * (7 - i) for i in range(8)} | {"1" * i + "00" + "1" * (6 - i) for i in range(7)},
        ),
        ("interpolate", {"01010101", "10101010"}),
    ],
)
def test_what_a_strategy_can_draw(name, expected):
    assert draws(name, 8) == expected


def test_random_gives_a_share_between_a_tenth_and_nine_tenths():
    draw, same, numbers = random.Random(0), random.Random(0), [0.05, 0.95, 0.5, 0.89]
    same.random()  # chooses the strategy
    share = same.uniform(0.1, 0.9)
    mask = draw_frame_mask([("random", 1.0)], 4, draw, lambda n: numbers[:n])
    assert mask == [number > share for number in numbers]
    kept = [text(draw_frame_mask([("random", 1.0)], 100, draw, random_numbers(draw))).count("0") for _ in range(400)]
    assert 0 <= min(kept) < 25 < 75 < max(kept) <= 99
    assert sum(kept) / 400 == pytest.approx(50, abs=4)


def random_numbers(draw):
    return lambda n: [draw.random() for _ in range(n)]


@pytest.mark.parametrize("name", STRATEGIES)
def test_something_is_always_learned(name):
    for frames in (1, 2, 3, 4, 5):
        masks = draws(name, frames, 200)
        assert {len(mask) for mask in masks} == {frames}
        assert all("1" in mask for mask in masks), masks
    assert draws(name, 1) == {"1"}


def test_both_ends_of_two_frames():
    assert draws("image_head_tail", 2) == draws("quarter_head_tail", 2) == {"01"}
    assert draw_frame_mask([("random", 1.0)], 3, random.Random(0), lambda n: [0.0] * n) == [False, False, True]


def test_a_sample_of_one_frame_uses_one_number():
    draw, same = random.Random(3), random.Random(3)
    draw_frame_mask([("quarter_random", 1.0)], 1, draw, no_numbers)
    same.random()
    assert draw.random() == same.random()


def test_strategies_are_drawn_with_their_probabilities():
    draw = random.Random(1)
    strategies = [("image_head", 0.5), ("image_tail", 0.2), ("interpolate", 0.1)]  # the rest: none
    counts = Counter(text(draw_frame_mask(strategies, 4, draw, no_numbers)) for _ in range(4000))
    expected = {"0111": 0.5, "1110": 0.2, "0101": 0.05, "1010": 0.05, "1111": 0.2}
    assert {mask: count / 4000 for mask, count in counts.items()} == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(("strategies", "frames"), [([("half", 1.0)], 4), ([("identity", 1.0)], 0)])
def test_refused(strategies, frames):
    with pytest.raises(ValueError, match="accepted"):
        draw_frame_mask(strategies, frames, random.Random(0), no_numbers)

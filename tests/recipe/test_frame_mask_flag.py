"""What `--frame-masks` accepts, and how it names what it does not."""

import pytest

from tests.recipe.test_check import objective
from vidtron.recipe.frame_mask_flag import parse_frame_masks


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", []),
        (
            "image_head 0.1 quarter_tail 0.05",
            [("image_head", 0.1), ("quarter_tail", 0.05), ("identity", pytest.approx(0.85))],
        ),
        ("mask_no 0.75 mask_image_head 0.25", [("identity", 0.75), ("image_head", 0.25)]),
        ("intepolate 0.5 identity 0.5", [("interpolate", 0.5), ("identity", 0.5)]),
        ("random 1", [("random", 1.0), ("identity", 0.0)]),
    ],
)
def test_accepted(words, expected):
    assert parse_frame_masks(words.split()) == expected
    assert objective(frame_masks=words.split()) == []


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("image_head", "--frame-masks image_head: accepted: STRATEGY PROBABILITY, in pairs"),
        ("image_hat 0.1", "--frame-masks image_hat: accepted: identity, quarter_random,"),
        ("image_head much", "--frame-masks image_head much: accepted: a probability, 0 to 1"),
        ("image_head nan", "--frame-masks image_head nan: accepted: a probability, 0 to 1"),
        ("image_head 1.1", "--frame-masks image_head 1.1: accepted: a probability"),
        ("image_head -0.1", "--frame-masks image_head -0.1: accepted: a probability"),
        ("image_head 0.6 random 0.6", "--frame-masks: probabilities sum to 1.2; accepted: at most 1"),
        ("mask_image_head 0.1", "--frame-masks: probabilities sum to 0.1; accepted: 1, as identity or a name"),
        ("no 0.5 random 0.1", "--frame-masks: probabilities sum to 0.6; accepted: 1, as"),
        ("random 0.1 mask_random 0.1", "--frame-masks mask_random: given twice; accepted: each strategy once"),
    ],
)
def test_refused(words, error):
    errors = objective(frame_masks=words.split())
    assert len(errors) == 1
    assert errors[0].startswith(error)

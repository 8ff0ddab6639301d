"""Masks of the samples of a run."""

import pytest

from vidtron.training.frame_mask_draws import FrameMaskDraws

FLAGS = ["image_head", "0.3", "random", "0.3"]


def test_masks_are_a_function_of_seed_and_position():
    masks, again = FrameMaskDraws.from_config(FLAGS, 5), FrameMaskDraws.from_config(FLAGS, 5)
    drawn = [masks(position, 8, 1) for position in range(200)]
    assert drawn == [again(position, 8, 1) for position in reversed(range(200))][::-1]
    assert drawn != [FrameMaskDraws.from_config(FLAGS, 6)(position, 8, 1) for position in range(200)]
    assert drawn.count([True] * 8) / 200 == pytest.approx(0.4, abs=0.1)
    assert drawn.count([False] + [True] * 7) / 200 == pytest.approx(0.3, abs=0.1)
    assert len({tuple(mask) for mask in drawn}) > 20


def test_a_token_is_never_split():
    masks = FrameMaskDraws.from_config(["random", "1"], 5)
    for position in range(50):
        mask = masks(position, 4, 2)
        assert len(mask) == 8
        assert mask[::2] == mask[1::2] == masks(position, 4, 1)


def test_without_strategies_everything_is_learned():
    masks = FrameMaskDraws.from_config([], 5)
    assert not masks.enabled
    assert masks(3, 4, 1) == [True] * 4
    assert not FrameMaskDraws.from_config(["identity", "1"], 5).enabled
    assert FrameMaskDraws.from_config(FLAGS, 5).enabled

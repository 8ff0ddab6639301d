"""Numbers depend on what they are for and on nothing else."""

import pytest
import torch

from vidtron.parallel import STREAMS, named_generator, sample_generator, sample_random
from vidtron.parallel.randomness import kept


def draw(generator: torch.Generator) -> tuple[float, ...]:
    return tuple(torch.randn(4, generator=generator).tolist())


def test_the_same_again() -> None:
    torch.rand(3)
    assert draw(sample_generator(1, 2, "noise")) == draw(sample_generator(1, 2, "noise"))
    assert draw(named_generator(1, "decoder.weight")) == draw(named_generator(1, "decoder.weight"))


def test_these_values_stay() -> None:
    """Changing them changes every run that is resumed."""
    assert torch.randint(1000, (3,), generator=sample_generator(1234, 7, "noise")).tolist() == SAMPLE
    assert torch.randint(1000, (3,), generator=named_generator(1234, "permutation")).tolist() == NAMED


def test_pythons_generator() -> None:
    assert [sample_random(1234, 7, "frame_mask").randrange(1000) for _ in range(2)] == [PYTHON] * 2
    draws = [sample_random(*key).random() for key in ((1, 2, "noise"), (2, 1, "noise"), (1, 2, "crop"))]
    assert len(set(draws)) == 3
    with pytest.raises(ValueError, match="unknown random stream 'masks'"):
        sample_random(1, 2, "masks")


PYTHON = 886
SAMPLE, NAMED = [887, 571, 99], [531, 976, 851]


def test_seed_position_and_stream_all_matter_and_do_not_add_up() -> None:
    draws = [
        draw(sample_generator(seed, position, stream))
        for seed in (0, 1, 2, 11)
        for position in (0, 1, 2, 11, 21)
        for stream in STREAMS
    ]
    draws += [draw(named_generator(1, str(position))) for position in (1, 2)]
    assert len(set(draws)) == len(draws)


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    draw(sample_generator(1, 2, "noise"))
    assert torch.equal(before, torch.get_rng_state())


def test_unknown_stream() -> None:
    with pytest.raises(ValueError, match="unknown random stream 'noize'; accepted: timestep, noise"):
        sample_generator(1, 2, "noize")


def test_negative_position() -> None:
    with pytest.raises(ValueError, match="position -1"):
        sample_generator(1, -1, "noise")


def mask(share=0.75, seed=1, positions=(5, 9), name="layers.0", rows=range(200), columns=range(300)):
    return kept(share, seed, positions, name, rows, columns, torch.device("cpu"))


def test_a_part_of_a_mask_is_that_part_of_the_whole():
    whole = mask()
    assert torch.equal(mask(rows=range(120, 200), columns=range(100, 140)), whole[120:, :, 100:140])
    assert torch.equal(mask(positions=(9,)), whole[:, 1:])


def test_masks_of_different_things_are_independent():
    """Two masks of share s agree in s^2 + (1 - s)^2 of 120,000 places; the bounds are five standard deviations."""
    whole = mask()
    assert whole.float().mean().item() == pytest.approx(0.75, abs=0.0063)
    others = {
        "seed": mask(seed=2),
        "positions": mask(positions=(9, 5)),
        "name": mask(name="layers.1"),
        "next row": mask(rows=range(1, 201)),
        "next column": mask(columns=range(1, 301)),
    }
    for name, other in others.items():
        assert (whole == other).float().mean().item() == pytest.approx(0.625, abs=0.007), name
    rows, columns = whole.float().mean(dim=2), whole.float().mean(dim=0)
    assert rows.var().item() == pytest.approx(0.75 * 0.25 / 300, rel=0.4)
    assert columns.var().item() == pytest.approx(0.75 * 0.25 / 200, rel=0.4)


@pytest.mark.parametrize(("share", "expected"), [(1.0, 1.0), (0.0, 0.0), (0.01, 0.01)])
def test_extreme_shares(share, expected):
    assert mask(share=share).float().mean().item() == pytest.approx(expected, abs=0.0015)


def test_mask_values_stay():
    """Changing them changes every run that is resumed."""
    assert mask(0.5, 1234, (7,), "x", range(2, 3), range(32)).flatten().int().tolist() == MASK


MASK = [int(bit) for bit in "10111011100010011111000100000001"]

"""Numbers depend on what they are for and on nothing else."""

import pytest
import torch

from vidtron.parallel import STREAMS, named_generator, sample_generator


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

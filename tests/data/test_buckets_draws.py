import numpy as np
import pytest

from vidtron.data.planning.buckets_draws import hashed, key_of, numpy_uniform, uniform

SEEDS = {
    "small": range(3000),
    "around 2**32": range(2**32 - 500, 2**32 + 500),
    "large": [int(seed) for seed in np.random.default_rng(5).integers(0, 2**63, 2000)],
    "largest": [2**64 - 1, 2**63, 2**63 - 1],
}


@pytest.mark.parametrize("draw", [0, 1, 2])
@pytest.mark.parametrize("seeds", SEEDS)
def test_numpys_generators_bit_for_bit(seeds: str, draw: int) -> None:
    values = SEEDS[seeds]
    expected = [np.random.default_rng(seed).random(draw + 1)[draw] for seed in values]
    assert numpy_uniform(np.array(values, np.uint64), draw).tolist() == expected


def test_hashes_are_even_and_depend_on_every_part() -> None:
    numbers = uniform(hashed(3, np.arange(200_000)))
    assert numbers.min() >= 0 and numbers.max() < 1
    counts = np.histogram(numbers, 20, (0, 1))[0]
    assert np.abs(counts - 10_000).max() < 500  # 5 standard deviations
    rows = np.arange(10, 1010)  # unlike the other parts: no two tuples agree
    keys = [(3, rows), (4, rows), (3, rows, 0), (3, rows, 1), (rows, 3), (3, 0, rows), (-3, rows)]
    assert len(np.unique(np.concatenate([hashed(*key) for key in keys]))) == 7000


def test_hashes_stay_as_they_are() -> None:
    # Plans of old runs are only resumed if these do.
    assert [int(h) for h in hashed(1, np.array([2, 3]))] == [13608149317741381227, 9716232063330790915]
    assert key_of("name", 7) == 4221101199489034858

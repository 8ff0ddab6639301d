import numpy as np
import pytest

from vidtron.config.ema import EmaConfig
from vidtron.training.ema import ConstantDecay, PowerFunction, rules


def test_warm_up_of_a_constant_decay():
    rule = ConstantDecay(0.9)
    assert [rule.decay(n) for n in (1, 2, 10, 79, 80, 81, 10**6)] == [2 / 11, 3 / 12, 11 / 20, 80 / 89, 0.9, 0.9, 0.9]


@pytest.mark.parametrize(("width", "gamma"), [(0.05, 16.97), (0.10, 6.94), (0.15, 3.56), (0.2, 1.8)])
def test_exponent_of_a_power_function(width, gamma):
    """The first two are the paper's (arXiv:2312.02696, section 3.1)."""
    assert PowerFunction(width).gamma == pytest.approx(gamma, abs=0.06)


@pytest.mark.parametrize("width", [0.05, 0.15, 0.25])
def test_a_power_function_has_its_width(width):
    """Standard deviation of the averaged steps, from the weights that 4000 updates give each of them."""
    rule, steps = PowerFunction(width), 4000
    weights = np.zeros(steps)
    for n in range(1, steps + 1):
        weights *= rule.decay(n)
        weights[n - 1] = 1 - rule.decay(n)
    assert weights.sum() == pytest.approx(1)
    at = np.arange(1, steps + 1) / steps
    mean = (weights * at).sum()
    assert np.sqrt((weights * (at - mean) ** 2).sum()) == pytest.approx(width, rel=1e-3)


def test_names_tell_the_rules():
    config = EmaConfig(ema_decay=[0.9999, 0.9999999], ema_power=[0.05])
    assert [rule.name for rule in rules(config)] == ["0.9999", "0.9999999", "power_0.05"]

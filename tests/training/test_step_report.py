import math
from types import SimpleNamespace

import pytest
import torch

from vidtron.training.step_report import combine


def one_rank(last_stage=True):
    group = SimpleNamespace(rank=lambda: 0)
    return SimpleNamespace(is_last_stage=last_stage, tp=group, cp=group, world_size=1, device=torch.device("cpu"))


def losses(*pairs):
    return [{"losses_B": torch.tensor(values), "slots": slots} for values, slots in pairs]


def test_losses_go_to_their_places():
    report = combine(losses(([1.0, 2.0], (2, 3)), ([3.0, 4.0], (0, 1))), {}, {}, 4, one_rank(), gradient_norm=5.0)
    assert report.losses.tolist() == [3.0, 4.0, 1.0, 2.0]
    assert report.loss == 2.5
    assert report.gradient_norm == 5.0
    assert report.is_finite
    assert report.stop is None


def test_rows_go_to_their_places():
    rows, codes = {0: 7, 1: 2**40, 2: 0, 3: 9}, {1: 2**48 - 1, 3: 3}
    report = combine(losses(([1.0, 2.0], (2, 3)), ([3.0, 4.0], (0, 1))), rows, codes, 4, one_rank())
    assert report.rows == (7, 2**40, 0, 9)
    assert report.codes == (0, 2**48 - 1, 0, 3)


def test_other_stages_say_nothing():
    assert combine(losses(([1.0], (0,))), {}, {}, 1, one_rank(last_stage=False)).losses.tolist() == [0.0]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_not_finite(value):
    assert not combine(losses(([1.0, value], (0, 1))), {}, {}, 2, one_rank(), gradient_norm=1.0).is_finite
    report = combine(losses(([1.0, 1.0], (0, 1))), {}, {}, 2, one_rank(), gradient_norm=value)
    assert not report.is_finite
    assert not math.isfinite(report.gradient_norm)


def test_wish_to_stop():
    assert combine(losses(([1.0], (0,))), {}, {}, 1, one_rank(), stop="duration").stop == "duration"

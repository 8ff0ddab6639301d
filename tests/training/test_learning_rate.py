from types import SimpleNamespace

import pytest

from tests.training.small import small_run
from vidtron.training.learning_rate import make_scheduler, warmup_iterations


def learning_rates(steps: int, **flags) -> list[float]:
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.0}])
    scheduler = make_scheduler(small_run(**flags), optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step(1)
    return rates


def test_warmup_and_decay():
    flags = {"lr": 1.0, "min_lr": 0.2, "lr_decay_style": "linear", "lr_warmup_iters": 2, "train_iters": 6}
    assert learning_rates(8, **flags) == pytest.approx([0, 0.5, 1.0, 0.8, 0.6, 0.4, 0.2, 0.2])
    assert learning_rates(4, **{**flags, "lr_decay_iters": 3}) == pytest.approx([0, 0.5, 1.0, 0.2])


def test_warmup_as_a_fraction():
    assert warmup_iterations(small_run(train_iters=200, lr_warmup_fraction=0.1)) == 20
    assert warmup_iterations(small_run(train_iters=200, lr_decay_iters=50, lr_warmup_fraction=0.1)) == 5


def test_a_run_may_end_within_its_warmup():
    assert learning_rates(2, lr=1.0, lr_warmup_iters=4, train_iters=2) == pytest.approx([0, 0.25])


def test_weight_decay_is_constant():
    optimizer = SimpleNamespace(param_groups=[{"wd_mult": 1.0}, {"wd_mult": 0.0}])
    scheduler = make_scheduler(small_run(weight_decay=0.3, train_iters=4), optimizer)
    for _ in range(6):
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
        scheduler.step(1)

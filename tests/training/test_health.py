import math

import pytest
import torch

from vidtron.training.health import NonFiniteStepError, checked, describe_samples
from vidtron.training.step_report import StepReport

GOOD = StepReport(torch.tensor([1.0, 2.0]), (0, 1), (0, 0), 1.0, None)
BAD = StepReport(torch.tensor([1.0, math.nan]), (0, 1), (0, 0), 1.0, None)
BAD_NORM = StepReport(torch.tensor([1.0, 2.0]), (0, 1), (0, 0), math.inf, None)


def attempts(*reports):
    """A step that gives these reports, and the random numbers its attempts drew."""
    remaining, drawn = list(reports), []

    def attempt():
        drawn.append(torch.rand(()).item())
        return remaining.pop(0)

    return attempt, drawn


def check(attempt):
    warnings = []
    return checked(attempt, lambda report: "step 5", warnings.append), warnings


def test_a_finite_step_runs_once():
    attempt, drawn = attempts(GOOD)
    assert check(attempt) == (GOOD, [])
    assert len(drawn) == 1


@pytest.mark.parametrize("bad", [BAD, BAD_NORM])
def test_a_transient_fault_is_repeated_with_the_same_random_numbers(bad):
    attempt, drawn = attempts(bad, GOOD)
    report, warnings = check(attempt)
    assert report is GOOD
    assert drawn[0] == drawn[1]
    assert "step 5; running the step again" in warnings[0]
    assert "transient" in warnings[1]


def test_a_lasting_fault_ends_the_run():
    attempt, drawn = attempts(BAD, BAD)
    with pytest.raises(NonFiniteStepError, match="step 5, twice"):
        check(attempt)
    assert len(drawn) == 2


def describe(report, **arguments):
    return describe_samples(
        report,
        iteration=3,
        consumed=10,
        key_of=lambda position: f"clip{position}",
        timestep_of=lambda position: 100.0 * (position - 9),
        sigma_of=lambda timestep: timestep / 1000,
        **arguments,
    )


def test_the_bad_sample_is_named():
    assert describe(BAD) == ("step 3: loss is nan; samples: clip11 (position 11, timestep 200, sigma 0.2000)")


def test_a_bad_gradient_names_all_samples():
    words = describe(BAD_NORM)
    assert "gradient norm (all losses are finite) is inf" in words
    assert "clip10" in words
    assert "clip11" in words


def test_long_lists_are_cut_and_counted():
    many = StepReport(torch.full((20,), math.nan), tuple(range(20)), (0,) * 20, 1.0, None)
    assert describe(many, limit=2).endswith("and 18 more")

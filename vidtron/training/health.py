"""Losses and gradient norms that are not finite: run the step again, then stop; never go on in silence.

mcore's RerunStateMachine is not used. It looks for faulty GPUs: it does not check the first step of a run, stops the
run even where the repetition comes out finite (or, with fatal=False, goes on even where it does not), and wants a
restart on another GPU for its verdict (rerun_state_machine.py, 0.16.1: validate_result, should_checkpoint_and_exit).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker

from vidtron.training.step_report import StepReport


class NonFiniteStepError(RuntimeError):
    """Loss or gradient norm is not finite, also when the step is run again."""


def random_states() -> dict[str, Any]:
    """States of the generators that a forward pass may draw from."""
    states: dict[str, Any] = {"torch": torch.get_rng_state(), "tracker": get_cuda_rng_tracker().get_states()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_random_states(states: dict[str, Any]) -> None:
    """Undo the draws since `random_states`."""
    torch.set_rng_state(states["torch"])
    get_cuda_rng_tracker().set_states(states["tracker"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])


def checked(
    attempt: Callable[[], StepReport], describe: Callable[[StepReport], str], warn: Callable[[str], None]
) -> StepReport:
    """The report of a finite step; runs the step a second time where the first is not finite.

    Args:
        attempt: one forward-backward pass over the step's batch, without the update. The ranks must agree on its
            outcome.
        describe: names step, noise levels and samples of a report.
        warn: told of a first attempt that was not finite.

    Raises:
        NonFiniteStepError: the second attempt is not finite either.
    """
    states = random_states()
    report = attempt()
    if report.is_finite:
        return report
    warn(f"{describe(report)}; running the step again")
    restore_random_states(states)
    again = attempt()
    if again.is_finite:
        warn(f"the second attempt is finite (loss {again.loss:.6g}): a transient fault of the machine?")
        return again
    raise NonFiniteStepError(f"{describe(again)}, twice; the weights are those before the step")


def describe_samples(
    report: StepReport,
    iteration: int,
    consumed: int,
    key_of: Callable[[int], str],
    timestep_of: Callable[[int], float],
    sigma_of: Callable[[float], float],
    limit: int = 16,
) -> str:
    """Words for a step that is not finite: its number, and position, key, timestep and sigma of the samples to blame.

    Args:
        report: of the step.
        iteration: number of the step, from 1.
        consumed: samples before the step.
        key_of: position -> the sample's key.
        timestep_of: position -> its timestep in this step.
        sigma_of: timestep -> noise level.
        limit: samples that are named at most.
    """
    bad = [slot for slot, loss in enumerate(report.losses.tolist()) if not math.isfinite(loss)]
    what = "loss" if bad else "gradient norm (all losses are finite)"
    value = report.loss if bad else report.gradient_norm
    slots = bad or list(range(len(report.losses)))
    named = []
    for slot in slots[:limit]:
        position = consumed + slot
        timestep = timestep_of(position)
        level = f"timestep {timestep:g}, sigma {sigma_of(timestep):.4f}"
        named.append(f"{key_of(position)} (position {position}, {level})")
    more = f" and {len(slots) - limit} more" if len(slots) > limit else ""
    return f"step {iteration}: {what} is {value}; samples: {', '.join(named)}{more}"

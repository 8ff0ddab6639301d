"""Global batch size over the course of a run, with mcore's microbatch calculators."""

import math
from collections.abc import Callable
from typing import Any

from megatron.core import num_microbatches_calculator as mcore

from vidtron.config.run import RunConfig
from vidtron.parallel import model_parallel_size


def replicas(config: RunConfig, world_size: int) -> int:
    """Copies of the model that `world_size` ranks hold."""
    return world_size // model_parallel_size(config)


def global_batch_size(config: RunConfig, world_size: int) -> int:
    """Global batch after the ramp-up; where it is not given, one micro-batch for each replica."""
    training = config.training
    return training.global_batch_size or training.micro_batch_size * replicas(config, world_size)


def batch_size_at(config: RunConfig, world_size: int) -> Callable[[int], int]:
    """The function that gives the global batch size of the step that starts at so many consumed samples.

    Each caller has its own: mcore's calculator keeps the last answer, and prefetching asks from another thread.
    """
    training = config.training
    final = global_batch_size(config, world_size)
    if training.rampup_batch_size is None:
        return lambda consumed: final
    calculator = _rampup_calculator(
        training.rampup_batch_size, final, training.micro_batch_size, replicas(config, world_size)
    )

    def size(consumed: int) -> int:
        calculator.update(consumed, consistency_check=True)
        return calculator.get_current_running_global_batch_size()

    return size


def _rampup_calculator(rampup: tuple[int, int, int], final: int, micro_batch_size: int, replicas: int) -> Any:
    """mcore's calculator for START INCREMENT SAMPLES; from 0.19 on a case of its calculator for any steps."""
    start, increment, samples = rampup
    if hasattr(mcore, "RampupBatchsizeNumMicroBatchesCalculator"):
        return mcore.RampupBatchsizeNumMicroBatchesCalculator(
            final, micro_batch_size, replicas, False, 1, start, increment, samples
        )
    steps = (final - start) // increment
    thresholds = [math.ceil(samples * step / steps) for step in range(steps + 1)]
    schedule = " ".join(f"{at}:{start + step * increment}" for step, at in enumerate(thresholds))
    return mcore.StepBatchsizeNumMicroBatchesCalculator(micro_batch_size, replicas, False, 1, schedule)

"""Where the supported versions of megatron-core differ: 0.16.1 and 0.19.x."""

import math
from importlib.metadata import version as installed_version
from typing import Any

from megatron.core import num_microbatches_calculator
from packaging.version import Version

MCORE_VERSION = Version(installed_version("megatron-core"))
AT_LEAST_0_19 = Version("0.19.0.dev0") <= MCORE_VERSION


def async_save_arguments() -> dict[str, Any]:
    """Keyword arguments of `dist_checkpointing.save` that only some versions know.

    From 0.19 on there are two implementations of background saves; "nvrx", the default, needs a package of its own.
    """
    return {"async_strategy": "mcore"} if AT_LEAST_0_19 else {}


def rampup_calculator(rampup: tuple[int, int, int], final: int, micro_batch_size: int, replicas: int) -> Any:
    """The calculator of `--rampup-batch-size START INCREMENT SAMPLES`; in 0.19 a case of the one for any steps.

    Args:
        rampup: START, INCREMENT, SAMPLES.
        final: global batch size at the end.
        micro_batch_size: samples of one forward pass.
        replicas: copies of the model.
    """
    start, increment, samples = rampup
    silent_rank = 1  # rank 0 would log
    if not AT_LEAST_0_19:
        return num_microbatches_calculator.RampupBatchsizeNumMicroBatchesCalculator(
            final, micro_batch_size, replicas, False, silent_rank, start, increment, samples
        )
    steps = (final - start) // increment
    thresholds = [math.ceil(samples * step / steps) for step in range(steps + 1)]
    schedule = " ".join(f"{at}:{start + step * increment}" for step, at in enumerate(thresholds))
    return num_microbatches_calculator.StepBatchsizeNumMicroBatchesCalculator(
        micro_batch_size, replicas, False, silent_rank, schedule
    )

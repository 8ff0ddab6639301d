"""Global batch size over the course of a run, with mcore's microbatch calculators."""

from collections.abc import Callable

from vidtron.config.run import RunConfig
from vidtron.parallel import model_parallel_size
from vidtron.parallel.mcore_versions import rampup_calculator


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
    calculator = rampup_calculator(
        training.rampup_batch_size, final, training.micro_batch_size, replicas(config, world_size)
    )

    def size(consumed: int) -> int:
        calculator.update(consumed, consistency_check=True)
        return calculator.get_current_running_global_batch_size()

    return size

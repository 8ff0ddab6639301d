"""Length, batch and rhythm of a run."""

from dataclasses import dataclass
from typing import Annotated

from vidtron.config.ranges import Range

_Samples = Annotated[int, Range(1, 1_000_000_000_000)]


@dataclass
class TrainingConfig:
    """Training"""

    train_iters: Annotated[int, Range(1, 1_000_000_000)] = 1000
    """Optimizer steps of the whole run."""
    micro_batch_size: Annotated[int, Range(1, 65536)] = 1
    """Samples of one forward pass on one replica."""
    global_batch_size: Annotated[int, Range(1, 10_000_000)] | None = None
    """Samples of one optimizer step over all replicas; unset: micro-batch size times replicas."""
    rampup_batch_size: tuple[_Samples, _Samples, _Samples] | None = None
    """START INCREMENT SAMPLES: grow the global batch from START to --global-batch-size over SAMPLES samples."""
    seed: Annotated[int, Range(0, 2**32 - 1)] = 1234
    """Seed of every random number of the run."""
    eval_interval: Annotated[int, Range(1, 1_000_000_000)] | None = None
    """Steps between evaluations on --valid-data-path and videos of --validation-prompts; unset: none."""
    eval_iters: Annotated[int, Range(1, 1_000_000)] = 10
    """Global batches of one evaluation."""
    exit_interval: Annotated[int, Range(1, 1_000_000_000)] | None = None
    """Save and leave after a step whose number divides by this."""
    exit_duration_in_mins: Annotated[float, Range(0, 10_000_000, above=True)] | None = None
    """Save and leave once the run has lasted this long."""
    deterministic_mode: bool = False
    """Only deterministic kernels (on a GPU: slower)."""

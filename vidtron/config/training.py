"""Length, batch and rhythm of a run."""

from dataclasses import dataclass


@dataclass
class TrainingConfig:
    """Training"""

    train_iters: int = 1000
    """Optimizer steps of the whole run."""
    micro_batch_size: int = 1
    """Samples of one forward pass on one replica."""
    global_batch_size: int | None = None
    """Samples of one optimizer step over all replicas; unset: micro-batch size times replicas."""
    rampup_batch_size: tuple[int, int, int] | None = None
    """START INCREMENT SAMPLES: grow the global batch from START to --global-batch-size over SAMPLES samples."""
    seed: int = 1234
    """Seed of every random number of the run."""
    eval_interval: int | None = None
    """Steps between evaluations on --valid-data-path and videos of --validation-prompts; unset: none."""
    eval_iters: int = 10
    """Global batches of one evaluation."""
    exit_interval: int | None = None
    """Save and leave after a step whose number divides by this."""
    exit_duration_in_mins: float | None = None
    """Save and leave once the run has lasted this long."""
    deterministic_mode: bool = False
    """Only deterministic kernels (on a GPU: slower)."""

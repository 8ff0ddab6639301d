"""What a run tells about itself."""

from dataclasses import dataclass
from typing import Annotated, Literal

from vidtron.config.ranges import Range


@dataclass
class LoggingConfig:
    """Logging"""

    log_interval: Annotated[int, Range(1, 1_000_000_000)] = 1
    """Steps between lines on the terminal; metrics.jsonl has every step."""
    tensorboard: bool = True
    """Write event files into the run folder (needs the tensorboard package)."""
    wandb_project: str | None = None
    """Log to this Weights & Biases project."""
    wandb_exp_name: str | None = None
    """Name of the wandb run; unset: the run folder's name."""
    wandb_mode: Literal["online", "offline"] = "online"
    """offline writes into the run folder; upload later with `wandb sync`."""
    peak_tflops: Annotated[float, Range(0, 1_000_000_000, above=True)] | None = None
    """Peak TFLOP/s of one device that MFU is measured against; unset: the known dense bf16 peak of the GPU, none on
    a CPU."""

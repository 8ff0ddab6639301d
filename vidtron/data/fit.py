"""What the data room asks of a model: which sizes of clips it takes, and what they cost."""

from collections.abc import Callable
from dataclasses import dataclass

from vidtron.config.data import ClipSize


@dataclass(frozen=True)
class ClipFit:
    """Questions about clips of one run's model, answered by the model's family."""

    rounded_size: Callable[[int, int], tuple[int, int]]
    """(height, width) in pixels -> the nearest ones that the model takes."""
    nearest_frames: Callable[[int], tuple[int, ...]]
    """A number of frames -> itself alone where the model takes it, else the nearest accepted ones."""
    tokens: Callable[[ClipSize], int]
    """Tokens of one sample, text included."""
    flops: Callable[[ClipSize], float]
    """Model FLOPs of one sample, forward and backward pass."""
    errors: Callable[[ClipSize], list[str]]
    """Why the model, under its layout, cannot be trained on a size that `rounded_size` gave."""

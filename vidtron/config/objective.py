"""What the network learns."""

from dataclasses import dataclass
from typing import Literal


@dataclass
class ObjectiveConfig:
    """Objective"""

    noise_shift: float = 1.0
    """Shift of the zero-terminal-SNR schedule: abar / (shift + (1 - shift) abar)."""
    timestep_sampling: Literal["uniform", "stratified"] = "stratified"
    """uniform: independent draws; stratified: one draw in each stratum of the global batch."""
    text_dropout: float = 0.1
    """Share of samples whose text embedding is set to zero."""
    image_dropout: float = 0.05
    """Image-to-video models: share of samples whose image condition is set to zero."""

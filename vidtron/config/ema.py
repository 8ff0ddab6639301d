"""Averages of the weights over the steps of a run."""

from dataclasses import dataclass, field
from typing import Annotated

from vidtron.config.ranges import Range


@dataclass
class EmaConfig:
    """Averages of the weights (EMA)"""

    ema_decay: list[Annotated[float, Range(0, 1, above=True, below=True)]] = field(default_factory=list)
    """Keep exponential moving averages of the trained weights with these decays (0.9999, say); update n counts with
    min(decay, (1 + n) / (10 + n))."""
    ema_power: list[Annotated[float, Range(0, 12**-0.5, above=True, below=True)]] = field(default_factory=list)
    """Keep power-function averages of these relative widths (0.05, say): their memory grows with the run. From the
    width of the uniform average on no power function rises."""

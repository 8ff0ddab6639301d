"""Averages of the weights over the steps of a run."""

from dataclasses import dataclass, field


@dataclass
class EmaConfig:
    """Averages of the weights (EMA)"""

    ema_decay: list[float] = field(default_factory=list)
    """Keep exponential moving averages of the trained weights with these decays (0.9999, say); update n counts with
    min(decay, (1 + n) / (10 + n))."""
    ema_power: list[float] = field(default_factory=list)
    """Keep power-function averages of these relative widths (0.05, say): their memory grows with the run."""

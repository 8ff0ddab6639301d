"""Low-rank adapters and frozen weights."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from vidtron.config.ranges import Range


@dataclass
class AdaptationConfig:
    """LoRA and frozen weights"""

    lora_rank: Annotated[int, Range(1, 4096)] | None = None
    """Train low-rank adapters of this rank beside frozen weights; unset: none."""
    lora_alpha: Annotated[float, Range(0, 1_000_000, above=True)] | None = None
    """An adapter's product is multiplied by alpha / rank; unset: the rank. SAT's configurations use 1."""
    lora_dropout: Annotated[float, Range(0, 1, below=True)] = 0.0
    """Share of an adapter's inputs that is set to zero in training."""
    lora_target_modules: list[str] | None = None
    """Linear layers that get an adapter, by the model's names for them; unset: the model's choice."""
    lora_load: Path | None = None
    """Adapters to start from: a diffusers or SAT LoRA file or folder. A resumed run goes on with its own."""
    save_lora_only: bool = False
    """Checkpoints hold the adapters and their optimizer state; the frozen weights stay where --load found them."""
    lora_base: Path | None = None
    """The frozen weights below --load's adapters, in any format, if they are not where the checkpoint says."""
    freeze: list[str] = field(default_factory=list)
    """Patterns (*, ?, [...]) of names of weights that are not trained."""
    train_only: list[str] = field(default_factory=list)
    """Patterns of names of the only weights that are trained; with --lora-rank, besides the adapters."""

    @property
    def lora_scale(self) -> float:
        """What an adapter's product is multiplied by.

        Raises:
            ValueError: there are no adapters.
        """
        if self.lora_rank is None:
            raise ValueError("no --lora-rank: there are no adapters to scale")
        return (self.lora_rank if self.lora_alpha is None else self.lora_alpha) / self.lora_rank

"""Averages of the weights over the steps of a run (EMA), kept where the optimizer keeps its fp32 masters.

Each rank averages exactly the masters that its optimizer updates, so that an update communicates nothing and, with the
distributed optimizer, the memory is divided by the data-parallel size. To look at an averaged model costs one
all-gather.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer
from torch import Tensor

from vidtron.checkpoint import EmaPart, EmaState
from vidtron.config.ema import EmaConfig
from vidtron.training.optimizer import masters


class Rule(Protocol):
    """How much of an average each update keeps."""

    @property
    def name(self) -> str:
        """In the checkpoint and in logs."""

    def decay(self, update: int) -> float:
        """Factor of the old average in update number 1, 2, ..."""


@dataclass(frozen=True)
class ConstantDecay:
    """A constant, with the warm-up of TensorFlow's ExponentialMovingAverage."""

    limit: float

    @property
    def name(self) -> str:
        return repr(self.limit)

    def decay(self, update: int) -> float:
        return min(self.limit, (1 + update) / (10 + update))


@dataclass(frozen=True)
class PowerFunction:
    """Weights proportional to step^gamma (Karras et al. 2024, arXiv:2312.02696, section 3.1).

    `width` is the standard deviation of the averaged steps, as a part of all steps so far.
    """

    width: float

    @property
    def name(self) -> str:
        return f"power_{self.width!r}"

    @property
    def gamma(self) -> float:
        """The largest root of width^-2 (gamma + 1) = (gamma + 2)^2 (gamma + 3)."""
        inverse = self.width**-2
        return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())

    def decay(self, update: int) -> float:
        return (1 - 1 / update) ** (self.gamma + 1)


def rules(config: EmaConfig) -> list[Rule]:
    """The averages that a run keeps, in the order of the flags."""
    return [*map(ConstantDecay, config.ema_decay), *map(PowerFunction, config.ema_power)]


class WeightAverages:
    """The averages of one rank; without any of them it does nothing."""

    def __init__(
        self, rules: Sequence[Rule], chunks: Sequence[DistributedDataParallel], optimizer: MegatronOptimizer
    ) -> None:
        """
        Args:
            rules: one for each average.
            chunks: the wrapped chunks of the model.
            optimizer: of these chunks.
        """
        self.rules = {rule.name: rule for rule in rules}
        self.updates = dict.fromkeys(self.rules, 0)
        """Name -> updates so far."""
        self._chunks = list(chunks)
        self._masters = list(masters(optimizer)) if rules else []
        owned = {id(master.weight) for master in self._masters}
        self._elsewhere = [
            weight
            for chunk in chunks
            for weight in chunk.parameters()
            if weight.requires_grad and id(weight) not in owned
        ]
        """Trained weights that other data-parallel ranks update."""
        self._values = {name: [torch.empty_like(master.values) for master in self._masters] for name in self.rules}
        self.start()

    @property
    def names(self) -> list[str]:
        """The averages, in the order of the flags."""
        return list(self.rules)

    @torch.no_grad()
    def start(self) -> None:
        """Let each average that has not been updated yet be the weights as they are: after these were loaded."""
        for name, updates in self.updates.items():
            if not updates and self._masters:
                torch._foreach_copy_(self._values[name], [master.values for master in self._masters])

    @torch.no_grad()
    def update(self) -> None:
        """Count in the weights after a step."""
        for name, rule in self.rules.items():
            self.updates[name] += 1
            if self._masters:
                weight = 1 - rule.decay(self.updates[name])
                torch._foreach_lerp_(self._values[name], [master.values for master in self._masters], weight)

    def parts(self) -> EmaState:
        """What a checkpoint saves and loads."""
        return {
            name: [
                *(
                    EmaPart(master.weight, master.first, value, master.copy)
                    for master, value in zip(self._masters, values, strict=True)
                ),
                *(EmaPart(weight, 0, torch.empty(0), 0) for weight in self._elsewhere),
            ]
            for name, values in self._values.items()
        }

    @contextlib.contextmanager
    def in_model(self, name: str) -> Iterator[None]:
        """While open, the model has averaged weights; then its own again, bit by bit.

        All ranks open it together, and all weights must be gathered (`TrainedModel.complete_weights`).

        Raises:
            KeyError: there is no such average.
        """
        own = [master.in_model().clone() for master in self._masters]
        self._set(self._values[name])
        try:
            yield
        finally:
            self._set(own)

    @torch.no_grad()
    def _set(self, values: Sequence[Tensor]) -> None:
        for master, value in zip(self._masters, values, strict=True):
            master.in_model().copy_(value)
        for chunk in self._chunks:
            if chunk.ddp_config.use_distributed_optimizer:
                chunk.start_param_sync(force_sync=True)

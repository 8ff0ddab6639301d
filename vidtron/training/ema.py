"""Averages of the weights over the steps of a run (EMA), kept where the optimizer keeps its fp32 masters.

Each rank averages exactly the masters that its optimizer updates, so that an update communicates nothing and, with the
distributed optimizer, the memory is divided by the data-parallel size. To look at an averaged model costs one
all-gather.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.optimizer import Float16OptimizerWithFloat16Params, FP32Optimizer
from torch import Tensor

from vidtron.checkpoint import AveragedPart, Averages
from vidtron.config.ema import EmaConfig


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


@dataclass(frozen=True)
class Master:
    """The fp32 values of one weight that this rank's optimizer updates."""

    weight: torch.nn.Parameter
    """This rank's part of the model's weight."""
    first: int
    """Where they begin in it, row by row."""
    values: Tensor
    """float32 [number of elements], the optimizer's own memory."""
    copy: int | None
    """As in `AveragedPart`."""

    def in_model(self) -> Tensor:
        """The same elements in the model's memory, in its dtype."""
        return self.weight.detach().view(-1)[self.first : self.first + self.values.numel()]


def masters(optimizer: MegatronOptimizer) -> Iterator[Master]:
    """Everything that this rank's optimizer updates.

    Raises:
        TypeError: an optimizer of megatron-core that keeps its masters in another way.
    """
    for part in getattr(optimizer, "chained_optimizers", [optimizer]):
        if part.is_stub_optimizer:
            continue
        if isinstance(part, DistributedOptimizer):
            pairs = [(part.model_float16_groups, part.shard_fp32_from_float16_groups)]
            pairs += [(part.model_fp32_groups, part.shard_fp32_groups)]
            for weight, values in _flat(pairs):
                first = part._get_model_param_range_map(weight)["param"].start
                yield Master(weight, first, values.detach().view(-1), part.distributed_optimizer_instance_id)
        elif isinstance(part, Float16OptimizerWithFloat16Params):
            pairs = [(part.float16_groups, part.fp32_from_float16_groups)]
            pairs += [(part.fp32_from_fp32_groups, part.fp32_from_fp32_groups)]
            for weight, values in _flat(pairs):
                yield Master(weight, 0, values.detach().view(-1), None)
        elif isinstance(part, FP32Optimizer):
            for group in part.optimizer.param_groups:
                for weight in group["params"]:
                    yield Master(weight, 0, weight.detach().view(-1), None)
        else:
            raise TypeError(f"no averages of the weights can be kept with {type(part).__name__}")


def _flat(pairs: list[tuple[Any, Any]]) -> Iterator[tuple[torch.nn.Parameter, Tensor]]:
    """(weight, master) from lists of groups of weights beside lists of groups of masters."""
    for weight_groups, master_groups in pairs:
        for weights, values in zip(weight_groups, master_groups, strict=True):
            yield from zip(weights, values, strict=True)


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

    def parts(self) -> Averages:
        """What a checkpoint saves and loads."""
        return {
            name: [
                *(
                    AveragedPart(master.weight, master.first, value, master.copy)
                    for master, value in zip(self._masters, values, strict=True)
                ),
                *(AveragedPart(weight, 0, torch.empty(0), 0) for weight in self._elsewhere),
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

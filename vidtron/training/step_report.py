"""What the ranks tell each other after each pass: losses, health and wishes to stop, in one all-reduce."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vidtron.parallel.groups import Groups

STOP_REASONS = ("failure", "signal", "duration")
"""Why a rank may wish to stop at a moment the others do not know of; an earlier one goes before a later one."""


@dataclass(frozen=True)
class StepReport:
    """Outcome of a pass over a global batch, the same on all ranks."""

    losses: Tensor
    """Loss of each sample of the global batch, float64 on the CPU [global batch]."""
    rows: tuple[int, ...]
    """Row of the index of each sample of the global batch that was really used."""
    codes: tuple[int, ...]
    """`digest.clip_code` of each sample of the global batch and the frames that it showed."""
    gradient_norm: float
    stop: str | None
    """One of `STOP_REASONS`, as soon as one rank wishes it."""

    @property
    def loss(self) -> float:
        """Mean over the global batch, in the samples' order whatever the layout."""
        return self.losses.mean().item()

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.gradient_norm) and bool(torch.isfinite(self.losses).all())


def agree(stop: str | None, groups: Groups, group: dist.ProcessGroup | None = None) -> str | None:
    """Why to stop, as soon as one rank wishes it; the same on all ranks of a group, which call this together.

    Args:
        stop: this rank's wish, one of `STOP_REASONS`.
        groups: the run's process groups.
        group: some of the run's ranks, in a group over gloo; unset: all ranks.
    """
    size = groups.world_size if group is None else group.size()
    if size == 1:
        return stop
    weight = torch.tensor(0 if stop is None else len(STOP_REASONS) - STOP_REASONS.index(stop))
    weight = weight.to(groups.device) if group is None else weight
    dist.all_reduce(weight, op=dist.ReduceOp.MAX, group=groups.world if group is None else group)
    heaviest = int(weight.item())
    return STOP_REASONS[len(STOP_REASONS) - heaviest] if heaviest else None


def combine(
    losses_of_micro_batches: Sequence[dict[str, Any]],
    rows: Mapping[int, int],
    codes: Mapping[int, int],
    global_batch_size: int,
    groups: Groups,
    gradient_norm: float = 0.0,
    stop: str | None = None,
) -> StepReport:
    """Combine what each rank knows. Called by all ranks.

    Args:
        losses_of_micro_batches: what the schedule returned: on the last stage `losses_B` and `slots` of each
            micro-batch, elsewhere nothing.
        rows: place in the global batch -> row of the index, of this replica's samples.
        codes: place in the global batch -> `digest.clip_code`, of this replica's samples.
        global_batch_size: samples of the step over all replicas.
        groups: the run's process groups.
        gradient_norm: this rank's gradient norm; any rank's that is not finite is taken for all.
        stop: why this rank wishes to stop.
    """
    # Slot by slot: losses, rows and codes; gradient norms that are not finite, wishes. Adding zeros leaves a float as
    # it is, and float64 holds every row number and code exactly.
    size = global_batch_size
    vector = torch.zeros(3 * size + 1 + len(STOP_REASONS), dtype=torch.float64)
    # All tensor- and context-parallel ranks of the last stage have the same losses; the first of them reports.
    if groups.is_last_stage and groups.tp.rank() == 0 and groups.cp.rank() == 0:
        for losses in losses_of_micro_batches:
            vector[list(losses["slots"])] = losses["losses_B"].double().cpu()
        for slot, row in rows.items():
            vector[size + slot] = row
        for slot, code in codes.items():
            vector[2 * size + slot] = code
    if not math.isfinite(gradient_norm):
        vector[3 * size] = gradient_norm
    if stop is not None:
        vector[3 * size + 1 + STOP_REASONS.index(stop)] = 1.0
    if groups.world_size > 1:
        vector = vector.to(groups.device)
        dist.all_reduce(vector, group=groups.world)
        vector = vector.cpu()
    bad_norm = vector[3 * size].item()
    wishes = vector[3 * size + 1 :].tolist()
    return StepReport(
        losses=vector[:size],
        rows=tuple(vector[size : 2 * size].long().tolist()),
        codes=tuple(vector[2 * size : 3 * size].long().tolist()),
        gradient_norm=gradient_norm if bad_norm == 0.0 else bad_norm,
        stop=next((reason for reason, wish in zip(STOP_REASONS, wishes, strict=True) if wish), None),
    )

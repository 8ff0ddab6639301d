"""How the ranks of a replica give each other the samples that each of them has made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class MadeSample:
    """One sample, packed."""

    flat: Tensor
    """float32 [numel], on the device of the encoders."""
    row: int
    """Row of the index of the sample that was used: the planned one, or one in the place of a bad one."""
    code: int
    """`digest.clip_code` of the sample and the frames that it shows."""


class ReplicaExchange:
    """Gives every rank of a replica the samples that one of them made.

    The numbers travel through the host's memory over gloo, whatever the device: they are few, and so the exchange can
    run in a thread of its own beside the step's collectives, which NCCL does not promise to survive.
    """

    def __init__(self, group: dist.ProcessGroup, device: torch.device) -> None:
        """
        Args:
            group: gloo group of the replica's ranks that nobody else uses at the same time.
            device: where the samples are wanted.
        """
        self.group = group
        self.device = device

    def share(self, owners: Sequence[int], make: Callable[[], MadeSample], numel: int) -> list[MadeSample]:
        """Samples in the order of `owners`; `make` gives the next one this rank owns, of `numel` numbers.

        An error of one rank ends the run on all: it is agreed on before anything is sent.
        """
        rank = self.group.rank()
        made: list[MadeSample] = []
        error: Exception | None = None
        try:
            made = [make() for owner in owners if owner == rank]
        except Exception as exception:  # raised below, after the others have been told
            error = exception
        told = self._told(owners, made, error)
        if self.group.size() == 1:
            return made
        works, flats = [], []
        own = iter(made)
        for owner in owners:
            flat = next(own).flat.cpu() if owner == rank else torch.empty(numel)
            source = dist.get_global_rank(self.group, owner)
            works.append(dist.broadcast(flat, source, group=self.group, async_op=True))
            flats.append(flat)
        for work in works:
            if work is not None:
                work.wait()
        return [MadeSample(flat.to(self.device), row, code) for flat, (row, code) in zip(flats, told, strict=True)]

    def _told(self, owners: Sequence[int], made: list[MadeSample], error: Exception | None) -> list[tuple[int, int]]:
        """(row, code) of each sample. Raises on every rank of the replica if any rank has an error."""
        vector = torch.zeros(2 * len(owners) + 1, dtype=torch.int64)
        vector[-1] = error is not None
        if error is None:
            slots = [slot for slot, owner in enumerate(owners) if owner == self.group.rank()]
            pairs = vector[:-1].view(-1, 2)
            pairs[slots] = torch.tensor([(sample.row, sample.code) for sample in made], dtype=torch.int64).view(-1, 2)
        if self.group.size() > 1:
            dist.all_reduce(vector, group=self.group)
        if error is not None:
            raise error
        if vector[-1].item():
            raise RuntimeError("another rank of this replica failed to read or encode a sample; its message names it")
        return [(row, code) for row, code in vector[:-1].view(-1, 2).tolist()]

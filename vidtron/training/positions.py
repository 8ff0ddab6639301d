"""Which rank works on which sample: arithmetic on positions in the plan.

A position is the number of samples of the run before this one. A step that starts at `consumed` takes the positions
[consumed, consumed + global batch). Micro-batch m takes the m-th run of replicas x micro-batch size positions of
these, and replica r the r-th micro-batch of that run; so which samples make a global batch depends on neither the
layout nor the micro-batch size.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """The part of every global batch that one replica trains on, and this rank's place in the replica."""

    micro_batch_size: int
    replica: int
    """Index of the replica (data-parallel rank)."""
    replicas: int
    rank: int
    """Rank inside the replica."""
    ranks: int
    """Ranks of one replica."""

    def number_of_micro_batches(self, global_batch_size: int) -> int:
        """Micro-batches of one replica.

        Raises:
            ValueError: the global batch does not divide by replicas x micro-batch size.
        """
        count, rest = divmod(global_batch_size, self.replicas * self.micro_batch_size)
        if rest or not count:
            raise ValueError(
                f"global batch {global_batch_size} is no multiple of micro-batch size {self.micro_batch_size} "
                f"x {self.replicas} replicas"
            )
        return count

    def micro_batches(self, consumed: int, global_batch_size: int) -> list[list[int]]:
        """Positions of this replica's samples in the step that starts at `consumed`, one list for each micro-batch."""
        size = self.micro_batch_size
        starts = (
            consumed + (index * self.replicas + self.replica) * size
            for index in range(self.number_of_micro_batches(global_batch_size))
        )
        return [list(range(start, start + size)) for start in starts]

    def owners(self, consumed: int, global_batch_size: int) -> list[int]:
        """Rank inside the replica that reads and encodes each of the replica's samples of one step, in their order.

        The turn goes on from step to step, so that with fewer samples than ranks all ranks still take part.
        """
        count = self.number_of_micro_batches(global_batch_size) * self.micro_batch_size
        first = consumed // self.replicas
        return [(first + index) % self.ranks for index in range(count)]

    def owned_positions(self, consumed: int, batch_size_at: Callable[[int], int]) -> Iterator[int]:
        """Endless positions this rank reads, from the step that starts at `consumed` on.

        Args:
            consumed: samples the run has consumed.
            batch_size_at: global batch size of the step that starts at so many consumed samples.
        """
        while True:
            size = batch_size_at(consumed)
            positions = (p for micro_batch in self.micro_batches(consumed, size) for p in micro_batch)
            for position, owner in zip(positions, self.owners(consumed, size), strict=True):
                if owner == self.rank:
                    yield position
            consumed += size

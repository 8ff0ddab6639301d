"""Which rank works on which sample: arithmetic on positions in the plan.

A position is the number of samples of the run before this one. A step takes the positions [consumed, consumed + size)
of the plan. Micro-batch m takes the m-th run of replicas x micro-batch positions of these, and replica r the r-th
micro-batch of that run; so which samples make a global batch depends on neither the layout nor the micro-batch size.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

from vidtron.config.run import RunConfig
from vidtron.parallel import virtual_pipeline_size
from vidtron.training.step_plan import Step


@dataclass(frozen=True)
class RankShare:
    """The part of every global batch that one replica trains on, and this rank's place in the replica."""

    micro_batch_size: int
    """Most samples of one forward pass."""
    replica: int
    """Index of the replica (data-parallel rank)."""
    replicas: int
    rank: int
    """Rank inside the replica."""
    ranks: int
    """Ranks of one replica."""
    count_multiple: int = 1
    """The number of micro-batches of a step is a multiple of this (interleaved pipelines)."""

    @classmethod
    def from_config(cls, config: RunConfig, *, replica: int, replicas: int, rank: int, ranks: int) -> Self:
        """A rank's part under the run's micro-batch size and pipeline."""
        return cls(
            config.training.micro_batch_size,
            replica,
            replicas,
            rank,
            ranks,
            config.parallel.pipeline_model_parallel_size if virtual_pipeline_size(config) else 1,
        )

    def micro_batch_of(self, global_batch_size: int) -> int:
        """Samples of each micro-batch of a step: as many as divide the replica's samples evenly, within the limit.

        Raises:
            ValueError: the global batch cannot be divided so.
        """
        samples, rest = divmod(global_batch_size, self.replicas)
        if not rest:
            for size in range(min(self.micro_batch_size, samples), 0, -1):
                if samples % size == 0 and samples // size % self.count_multiple == 0:
                    return size
        each = self.replicas * self.count_multiple
        raise ValueError(
            f"global batch {global_batch_size} on {self.replicas} replicas: accepted: multiples of {each}"
        )

    def micro_batches(self, step: Step) -> list[list[int]]:
        """Positions of this replica's samples of a step, one list for each micro-batch."""
        size = self.micro_batch_of(step.size)
        starts = range(step.consumed + self.replica * size, step.consumed + step.size, self.replicas * size)
        return [list(range(start, start + size)) for start in starts]

    def owners(self, step: Step) -> list[int]:
        """Rank inside the replica that reads and encodes each of the replica's samples of one step, in their order.

        The turn goes on from step to step, so that with fewer samples than ranks all ranks still take part.
        """
        first = step.consumed // self.replicas
        return [(first + index) % self.ranks for index in range(step.size // self.replicas)]

    def owned_of(self, step: Step) -> list[int]:
        """Positions of a step that this rank reads and encodes."""
        positions = (position for micro_batch in self.micro_batches(step) for position in micro_batch)
        return [position for position, owner in zip(positions, self.owners(step), strict=True) if owner == self.rank]

    def owned_positions(self, steps: Iterable[Step]) -> Iterator[int]:
        """Positions this rank reads, step after step."""
        for step in steps:
            yield from self.owned_of(step)

"""Ranks that make one video together."""

from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist
from torch.distributed import ProcessGroup

from vidtron.parallel.agreement import gather_objects
from vidtron.parallel.groups import Groups


@dataclass(frozen=True)
class Team:
    """A replica, or two replicas that halve the work of guidance between them."""

    groups: Groups
    pair: ProcessGroup | None
    """The ranks with this rank's place in the two replicas; None: the team is one replica."""

    @property
    def number(self) -> int:
        """Number of this team, from 0."""
        return self.groups.dp_rank // (1 if self.pair is None else 2)

    @property
    def count(self) -> int:
        """Number of teams."""
        return self.groups.dp_size // (1 if self.pair is None else 2)

    @property
    def size(self) -> int:
        """Number of ranks in this team."""
        return self.groups.replica_size * (1 if self.pair is None else 2)

    @property
    def leads(self) -> bool:
        """Whether this rank speaks for the team."""
        return self.groups.replica_rank == 0 and (self.pair is None or self.pair.rank() == 0)

    def first_error(self, error: str | None) -> str | None:
        """The error of one of the team's ranks, on all of them; None if none has met any. All of them call it."""
        error = _first(error, self.groups.replica)
        return error if self.pair is None else _first(error, self.pair)


def pair_of(groups: Groups, timeout: timedelta) -> ProcessGroup:
    """A team of this rank and the one with its place in the neighbouring replica: of 0 and 1, 2 and 3, ...

    Called by all ranks together; the number of replicas is even.
    """
    if groups.dp_size == 2:
        return groups.dp
    replica = groups.dp_rank // 2 * 2
    own = tuple(dist.get_process_group_ranks(groups.dp)[replica : replica + 2])
    pairs = gather_objects(own, groups.world)
    made = {pair: dist.new_group(list(pair), timeout=timeout) for pair in sorted(set(pairs))}
    return made[own]


def _first(error: str | None, group: ProcessGroup) -> str | None:
    return next((found for found in gather_objects(error, group) if found is not None), None)

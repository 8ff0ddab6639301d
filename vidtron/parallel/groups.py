"""The process groups of a run, handed to whoever needs them."""

from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from megatron.core.process_groups_config import ProcessGroupCollection
from torch.distributed import ProcessGroup


@dataclass(frozen=True)
class Groups:
    """Process groups and this rank's place in them.

    A replica is the set of ranks that hold one copy of the model between them: tensor x context x pipeline parallel.
    """

    pg: ProcessGroupCollection
    """The run's groups as megatron-core takes them."""
    replica: ProcessGroup
    exchange: ProcessGroup
    """The replica's ranks in a gloo group, for what travels through the host's memory."""
    background: ProcessGroup
    """The ranks of `exchange` in another gloo group, which only the thread uses that works beside the training."""
    device: torch.device
    """Where this rank computes."""

    @property
    def tp(self) -> ProcessGroup:
        """Tensor-parallel group of this rank."""
        return self.pg.tp

    @property
    def pp(self) -> ProcessGroup:
        """Pipeline-parallel group of this rank."""
        return self.pg.pp

    @property
    def cp(self) -> ProcessGroup:
        """Context-parallel group of this rank."""
        return self.pg.cp

    @property
    def dp(self) -> ProcessGroup:
        """Data parallel: the ranks with this rank's place in every replica."""
        return self.pg.dp

    @property
    def dp_cp(self) -> ProcessGroup:
        """Data and context parallel together: the ranks that hold the same weights."""
        return self.pg.dp_cp

    @property
    def world(self) -> ProcessGroup:
        """Group of all ranks."""
        return dist.group.WORLD  # type: ignore[return-value]

    @property
    def rank(self) -> int:
        return dist.get_rank()

    @property
    def world_size(self) -> int:
        return dist.get_world_size()

    @property
    def dp_rank(self) -> int:
        """Number of this rank's replica."""
        return self.dp.rank()

    @property
    def dp_size(self) -> int:
        """Number of replicas."""
        return self.dp.size()

    @property
    def replica_rank(self) -> int:
        return self.replica.rank()

    @property
    def replica_size(self) -> int:
        return self.replica.size()

    @property
    def is_first_stage(self) -> bool:
        """Whether this rank is on the pipeline's first stage."""
        return self.pp.rank() == 0

    @property
    def is_last_stage(self) -> bool:
        """Whether this rank is on the pipeline's last stage, whose last model chunk ends in the loss."""
        return self.pp.rank() == self.pp.size() - 1


def current_groups(device: torch.device, timeout: timedelta) -> Groups:
    """The groups that megatron-core has just made, with those it does not have. Called by all ranks together."""
    pg = ProcessGroupCollection.use_mpu_process_groups()
    replica = _replica_group(pg, timeout)
    exchange = background = replica
    if replica.size() > 1:
        background = _groups_of_replicas(pg, timeout, backend="gloo")
        if dist.get_backend(replica) != "gloo":
            exchange = _groups_of_replicas(pg, timeout, backend="gloo")
    return Groups(pg=pg, replica=replica, exchange=exchange, background=background, device=device)


def _replica_group(pg: ProcessGroupCollection, timeout: timedelta) -> ProcessGroup:
    """Group of the ranks with one data-parallel rank; an existing group where one has the same ranks.

    Every communicator costs GPU memory.
    """
    if pg.dp.size() == 1:
        return dist.group.WORLD  # type: ignore[return-value]
    if pg.cp.size() == 1:
        return pg.mp
    return _groups_of_replicas(pg, timeout)


def _groups_of_replicas(pg: ProcessGroupCollection, timeout: timedelta, backend: str | None = None) -> ProcessGroup:
    """Make new groups of one rank of each replica, and give this rank's."""
    # Order of megatron-core's default "tp-cp-ep-dp-pp", tensor parallel fastest.
    tp_cp, dp, pp = pg.tp.size() * pg.cp.size(), pg.dp.size(), pg.pp.size()
    groups = [
        dist.new_group(
            [inner + tp_cp * (replica + dp * stage) for stage in range(pp) for inner in range(tp_cp)],
            timeout=timeout,
            backend=backend,
        )
        for replica in range(dp)
    ]
    return groups[pg.dp.rank()]

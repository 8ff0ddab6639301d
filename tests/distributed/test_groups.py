"""Which ranks stand together in a replica, and what they tell each other."""

from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.distributed.rank_pool import RankPool
from tests.distributed.toy import Layout
from vidtron.config.world import World
from vidtron.parallel import (
    any_rank,
    barrier,
    broadcast_object,
    broadcast_tensor,
    initialized,
    model_parallel_size,
)


def describe(rank: int, layout: Layout) -> dict[str, Any]:
    config = layout.run_config()
    with initialized(config, World.from_environment()) as groups:
        owner = groups.replica_size - 1
        tensor = broadcast_tensor(torch.full((2,), float(rank)), owner, groups.replica)
        value = broadcast_object({"from": rank} if groups.replica_rank == owner else None, owner, groups)
        barrier(groups)
        return {
            "replica": dist.get_process_group_ranks(groups.replica),
            "dp": dist.get_process_group_ranks(groups.dp),
            "replica_rank": groups.replica_rank,
            "replica_size": groups.replica_size,
            "dp_rank": groups.dp_rank,
            "dp_size": groups.dp_size,
            "first": groups.is_first_stage,
            "last": groups.is_last_stage,
            "tensor": tensor.tolist(),
            "object": value["from"],
            "any": any_rank(rank == 1, groups),
            "expected_size": model_parallel_size(config),
        }


CASES = [
    (Layout(tp=2, dp=2), [[0, 1], [2, 3]]),
    (Layout(cp=2, dp=2), [[0, 1], [2, 3]]),
    (Layout(pp=2, dp=2), [[0, 2], [1, 3]]),
    (Layout(tp=2, pp=2), [[0, 1, 2, 3]]),
    (Layout(pp=2, cp=2), [[0, 1, 2, 3]]),
    (Layout(dp=4), [[0], [1], [2], [3]]),
]


@pytest.mark.parametrize(("layout", "replicas"), CASES, ids=[layout.name for layout, _ in CASES])
def test_replicas(pool: RankPool, layout: Layout, replicas: list[list[int]]) -> None:
    for rank, answer in enumerate(pool.run(describe, 4, layout)):
        (replica,) = (ranks for ranks in replicas if rank in ranks)
        assert answer["replica"] == replica
        assert answer["replica_rank"] == replica.index(rank)
        assert answer["replica_size"] == len(replica) == answer["expected_size"]
        assert answer["dp_rank"] == replicas.index(replica)
        assert answer["dp_size"] == len(replicas)
        assert answer["dp"] == [other[replica.index(rank)] for other in replicas]
        assert answer["first"] == (layout.pp == 1 or rank < 2)
        assert answer["last"] == (layout.pp == 1 or rank >= 2)
        assert answer["tensor"] == [replica[-1]] * 2
        assert answer["object"] == replica[-1]
        assert answer["any"] is True

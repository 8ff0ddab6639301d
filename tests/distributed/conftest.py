"""The pool of ranks that the distributed tests share."""

from collections.abc import Iterator

import pytest
from rank_pool import RankPool


@pytest.fixture(scope="session")
def pool() -> Iterator[RankPool]:
    """`pool.run(job, world_size, *args)` calls `job(rank, *args)` on every rank; one pool per test process."""
    ranks = RankPool()
    yield ranks
    ranks.close()

"""What holds for every test."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.distributed.rank_pool import RankPool

# Several test processes share the machine, and each may start several ranks: threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

if os.environ.get("VIDTRON_LAST_BITS"):  # asked here, because importing torch takes seconds
    from tests.last_bits import enter_if_asked

    enter_if_asked()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave tests marked `gpu` out where there is no GPU."""
    if not any(item.get_closest_marker("gpu") for item in items):
        return
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def _no_launcher_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test run started inside a job of several ranks is still one process."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def pool() -> Iterator[RankPool]:
    """`pool.run(job, world_size, *args)` calls `job(rank, *args)` on every rank; one pool per test process."""
    ranks = RankPool()
    yield ranks
    ranks.close()


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 8 small synthetic clips of 20 frames of 64 x 96 pixels."""
    from tests.shards import write_shards

    return write_shards(tmp_path_factory.mktemp("shards"))

"""megatron-core's parts under our process groups: every layout trains the toy alike, and many times in one process."""

import pytest

from tests.distributed.rank_pool import RankPool
from tests.distributed.toy import Layout, Toy
from vidtron.config.world import World
from vidtron.parallel import check, initialized

STEPS = 4


def train(rank: int, layout: Layout, times: int = 1) -> list[list[tuple[float, float]]]:
    config, world = layout.run_config(), World.from_environment()
    assert check(config, world) == []
    histories = []
    for _ in range(times):
        with initialized(config, world) as groups:
            histories.append(Toy(layout, config, groups).train(0, STEPS))
    return histories


@pytest.fixture(scope="module")
def reference(pool: RankPool) -> list[tuple[float, float]]:
    return pool.run(train, 1, Layout())[0][0]


@pytest.mark.parametrize(
    "layout",
    [
        Layout(tp=2),
        Layout(pp=2),
        Layout(pp=2, layers_per_chunk=1),
        Layout(dp=2),
        Layout(dp=2, distributed_optimizer=True),
        Layout(dp=2, distributed_optimizer=True, overlap=True),
        Layout(tp=2, pp=2, distributed_optimizer=True),
        Layout(tp=2, dp=2, distributed_optimizer=True),
    ],
    ids=lambda layout: layout.name,
)
def test_layout_trains_like_one_rank(pool: RankPool, reference: list[tuple[float, float]], layout: Layout) -> None:
    assert reference[0][0] > 1.05 * reference[-1][0]
    for history in pool.run(train, layout.ranks, layout):
        for step, expected in zip(history[0], reference, strict=True):
            assert step == pytest.approx(expected, rel=1e-5)


def test_many_runs_in_one_process(pool: RankPool) -> None:
    first, *others = pool.run(train, 2, Layout(tp=2), 5)[0]
    assert all(other == first for other in others)

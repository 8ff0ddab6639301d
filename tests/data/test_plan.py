from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.data.index_files import index_of
from vidtron.data.index import ShardIndex
from vidtron.data.plan import Plan


@pytest.fixture
def index() -> ShardIndex:
    return index_of([30 + i for i in range(13)])


def test_every_epoch_is_another_permutation(index: ShardIndex) -> None:
    plan = Plan(index, seed=3, num_frames=5)
    epochs = [tuple(plan.sample_at(epoch * 13 + i) for i in range(13)) for epoch in range(6)]
    assert all(sorted(epoch) == list(range(13)) for epoch in epochs)
    assert len(set(epochs)) == 6


def test_it_is_a_pure_function_of_the_position(index: ShardIndex) -> None:
    forward = Plan(index, seed=3, num_frames=5)
    whole = [(forward.sample_at(p), forward.frames_at(p)) for p in range(60)]
    resumed = Plan(index, seed=3, num_frames=5)
    for p in (59, 0, 33, 14, 13, 12):
        assert (resumed.sample_at(p), resumed.frames_at(p)) == whole[p]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda p: (resumed.sample_at(p), resumed.frames_at(p)), range(60))) == whole


def test_seed_and_position_change_the_window(index: ShardIndex) -> None:
    windows = {tuple(Plan(index_of([40]), seed, 5).frames_at(p)) for seed in range(4) for p in range(10)}
    assert len(windows) > 15
    orders = {tuple(Plan(index, seed, 5).sample_at(p) for p in range(13)) for seed in range(5)}
    assert len(orders) == 5


def test_sequential_plans_go_through_the_middles(index: ShardIndex) -> None:
    plan = Plan(index, seed=9, num_frames=5, sequential=True)
    assert [plan.sample_at(p) for p in range(15)] == [*range(13), 0, 1]
    assert plan.frames_at(0) == plan.frames_at(13) == [13, 14, 15, 16, 17]


def test_skip_leaves_short_clips_out_and_counts_them() -> None:
    index = index_of([4, 17, 3, 20, 17])
    plan = Plan(index, 0, 17, short_clip="skip")
    assert len(plan) == 3 and plan.left_out == 2
    assert {plan.sample_at(p) for p in range(9)} == {1, 3, 4}
    padded = Plan(index, 0, 17, short_clip="pad")
    assert len(padded) == 5 and padded.left_out == 0 and padded.short_samples == 2
    assert all(len(padded.frames_at(p)) == 17 for p in range(10))


def test_a_plan_without_samples_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"none of the 2 clips in .* has 17 frames at 8 frames a second"):
        Plan(index_of([4, 16]), 0, 17, fps=8.0, short_clip="skip")


def test_negative_positions_are_refused(index: ShardIndex) -> None:
    with pytest.raises(ValueError, match="accepted: 0 or more"):
        Plan(index, 0, 5).sample_at(-1)


def test_the_fingerprint_names_the_function(index: ShardIndex) -> None:
    same = Plan(index, 1, 5).fingerprint()
    assert Plan(index_of([30 + i for i in range(13)]), 1, 5).fingerprint() == same
    others = [
        Plan(index, 2, 5),
        Plan(index, 1, 9),
        Plan(index, 1, 5, fps=8.0),
        Plan(index, 1, 5, short_clip="loop"),
        Plan(index, 1, 5, sequential=True),
        Plan(index_of([30 + i for i in range(13)], "y"), 1, 5),
    ]
    assert len({same, *(plan.fingerprint() for plan in others)}) == 7

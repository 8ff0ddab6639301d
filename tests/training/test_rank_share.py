import pytest

from tests.training.step_maker import step_of
from vidtron.training.rank_share import RankShare
from vidtron.training.step_plan import walk


def shares(replicas: int, ranks: int, micro_batch_size: int) -> list[RankShare]:
    return [
        RankShare(micro_batch_size=micro_batch_size, replica=replica, replicas=replicas, rank=rank, ranks=ranks)
        for replica in range(replicas)
        for rank in range(ranks)
    ]


def test_formula():
    # Micro-batch m of replica r takes consumed + m * replicas * size + r * size + j.
    share = RankShare(micro_batch_size=2, replica=1, replicas=3, rank=0, ranks=1)
    assert share.micro_batches(step_of(100, 12)) == [[102, 103], [108, 109]]


@pytest.mark.parametrize(("replicas", "micro_batch_size"), [(1, 1), (1, 4), (2, 1), (2, 2), (4, 3)])
def test_replicas_share_the_global_batch(replicas, micro_batch_size):
    taken = [
        position
        for share in shares(replicas, 1, micro_batch_size)
        for micro_batch in share.micro_batches(step_of(24, 24))
        for position in micro_batch
    ]
    assert sorted(taken) == list(range(24, 48))


@pytest.mark.parametrize(("replicas", "ranks"), [(1, 1), (1, 3), (2, 2), (2, 4)])
def test_every_sample_is_read_by_one_rank(replicas, ranks):
    steps = 5
    read = [
        position
        for share in shares(replicas, ranks, 1)
        for position in share.owned_positions(walk(lambda consumed: step_of(consumed, 4), 0, steps))
    ]
    assert sorted(read) == list(range(4 * steps))


def test_owners_are_those_who_read():
    for share in shares(2, 3, 2):
        reading = share.owned_positions(walk(lambda consumed: step_of(consumed, 8), 16, 3))
        for consumed in (16, 24, 32):
            flat = [p for micro_batch in share.micro_batches(step_of(consumed, 8)) for p in micro_batch]
            owners = share.owners(step_of(consumed, 8))
            own = [position for position, owner in zip(flat, owners, strict=True) if owner == share.rank]
            assert [next(reading) for _ in own] == own


def test_all_ranks_take_turns_with_one_sample_a_step():
    share = RankShare(micro_batch_size=1, replica=0, replicas=1, rank=0, ranks=4)
    assert [share.owners(step_of(consumed, 1)) for consumed in range(5)] == [[0], [1], [2], [3], [0]]


def test_reading_follows_a_growing_batch():
    (share,) = shares(1, 1, 1)
    sizes = {0: 2, 2: 2, 4: 4, 8: 4}
    steps = walk(lambda consumed: step_of(consumed, sizes[consumed]), 0, 4)
    assert list(share.owned_positions(steps)) == list(range(12))


def test_global_batch_that_does_not_divide():
    share = RankShare(micro_batch_size=2, replica=0, replicas=2, rank=0, ranks=1, count_multiple=2)
    with pytest.raises(ValueError, match="global batch 6 on 2 replicas: accepted: multiples of 4"):
        share.micro_batches(step_of(0, 6))


@pytest.mark.parametrize(
    ("samples", "limit", "multiple", "size"), [(12, 4, 1, 4), (10, 4, 1, 2), (7, 4, 1, 1), (3, 8, 1, 3), (12, 4, 2, 3)]
)
def test_micro_batches_are_equal_and_within_the_limit(samples, limit, multiple, size):
    share = RankShare(micro_batch_size=limit, replica=0, replicas=2, rank=0, ranks=1, count_multiple=multiple)
    assert share.micro_batch_of(2 * samples) == size

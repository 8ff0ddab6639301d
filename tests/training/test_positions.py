import itertools

import pytest

from vidtron.training.positions import Share


def shares(replicas: int, ranks: int, micro_batch_size: int) -> list[Share]:
    return [
        Share(micro_batch_size=micro_batch_size, replica=replica, replicas=replicas, rank=rank, ranks=ranks)
        for replica in range(replicas)
        for rank in range(ranks)
    ]


def test_formula():
    # Micro-batch m of replica r takes consumed + m * replicas * size + r * size + j.
    share = Share(micro_batch_size=2, replica=1, replicas=3, rank=0, ranks=1)
    assert share.micro_batches(100, 12) == [[102, 103], [108, 109]]


@pytest.mark.parametrize(("replicas", "micro_batch_size"), [(1, 1), (1, 4), (2, 1), (2, 2), (4, 3)])
def test_replicas_share_the_global_batch(replicas, micro_batch_size):
    taken = [
        position
        for share in shares(replicas, 1, micro_batch_size)
        for micro_batch in share.micro_batches(24, 24)
        for position in micro_batch
    ]
    assert sorted(taken) == list(range(24, 48))


@pytest.mark.parametrize(("replicas", "ranks"), [(1, 1), (1, 3), (2, 2), (2, 4)])
def test_every_sample_is_read_by_one_rank(replicas, ranks):
    steps = 5
    read = [
        position
        for share in shares(replicas, ranks, 1)
        for position in itertools.takewhile(lambda p: p < 4 * steps, share.owned_positions(0, lambda consumed: 4))
    ]
    assert sorted(read) == list(range(4 * steps))


def test_owners_are_those_who_read():
    for share in shares(2, 3, 2):
        reading = share.owned_positions(16, lambda consumed: 8)
        for consumed in (16, 24, 32):
            flat = [p for micro_batch in share.micro_batches(consumed, 8) for p in micro_batch]
            owners = share.owners(consumed, 8)
            own = [position for position, owner in zip(flat, owners, strict=True) if owner == share.rank]
            assert [next(reading) for _ in own] == own


def test_all_ranks_take_turns_with_one_sample_a_step():
    share = Share(micro_batch_size=1, replica=0, replicas=1, rank=0, ranks=4)
    assert [share.owners(consumed, 1) for consumed in range(5)] == [[0], [1], [2], [3], [0]]


def test_reading_follows_a_growing_batch():
    (share,) = shares(1, 1, 1)
    sizes = {0: 2, 2: 2, 4: 4, 8: 4}
    assert list(itertools.islice(share.owned_positions(0, sizes.__getitem__), 12)) == list(range(12))


def test_global_batch_that_does_not_divide():
    (share,) = shares(1, 1, 2)
    with pytest.raises(ValueError, match="global batch 5 is no multiple of micro-batch size 2 x 1 replicas"):
        share.micro_batches(0, 5)

from types import SimpleNamespace

import numpy as np
import pytest

from vidtron.data.decoding.loader import BadSample
from vidtron.training.bad_samples import BadSamples, TooManyBadSamplesError


class TenRows:
    """Position p plans row p modulo 10; replaced by the rows that follow."""

    index = [SimpleNamespace(key=f"clip{row}", shard="a.tar") for row in range(10)]

    def rows(self, first, count):
        return np.arange(first, first + count) % 10

    def replacement(self, position, attempt):
        return SimpleNamespace(row=(position + attempt) % 10)


class LoneGroup:
    def size(self):
        return 1


def ledger(limit=3, remembered=()):
    told = []
    groups = SimpleNamespace(world=LoneGroup())
    return BadSamples(TenRows(), limit, groups, told.append, remembered), told


def tried(position, row):
    return BadSample(position, row, f"clip{row}", "a.tar", "frame 3 is damaged")


def test_nothing_is_bad():
    bad, told = ledger()
    assert bad.count(8, [8, 9, 0, 1], []).positions == 0
    assert (len(bad), told, bad.state()) == (0, [], [])


def test_bad_samples_are_counted_named_and_remembered():
    bad, told = ledger()
    # Position 4 was tried with rows 4 and 5; position 6 with row 6.
    found = bad.count(4, [6, 5, 7, 7], [tried(4, 4), tried(4, 5), tried(6, 6)])
    assert [sample.row for sample in found.new] == [4, 5, 6]
    assert found.positions == 2
    assert bad.rows == {4, 5, 6}
    assert told[0] == "bad sample clip4 of a.tar (position 4): frame 3 is damaged"
    again, told = ledger(remembered=bad.state())
    assert again.rows == {4, 5, 6} and again.state() == bad.state()
    assert again.count(14, [6], []).new == ()  # replayed: known already, not told again
    assert told == []


def test_a_sample_counts_once():
    bad, told = ledger()
    bad.count(4, [5], [tried(4, 4)])
    assert bad.count(14, [5], [tried(14, 4)]).positions == 1
    assert len(bad) == len(told) == 1


def test_what_another_rank_has_tried_is_known_from_the_rows():
    bad, told = ledger()
    bad.count(4, [5], [])
    assert bad.rows == {4} and "clip4 of a.tar" in told[0]


def test_too_many():
    bad, _ = ledger(limit=1)
    bad.count(0, [1], [tried(0, 0)])
    with pytest.raises(TooManyBadSamplesError, match=r"2 samples .* --max-bad-samples 1; the last: clip3 of a.tar: "):
        bad.count(3, [4], [tried(3, 3)])

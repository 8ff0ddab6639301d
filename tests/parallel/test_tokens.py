"""Which rows of a padded sequence a rank holds."""

import pytest

from vidtron.parallel.context_parallel import choose_exchange
from vidtron.parallel.tokens import TokenSplit, padded_length, sequence_multiple


@pytest.mark.parametrize(
    ("tp", "cp", "sp", "fp8", "multiple"),
    [
        (1, 1, False, False, 1),
        (4, 2, False, False, 2),
        (4, 2, True, False, 8),
        (3, 2, True, True, 96),
        (2, 2, True, True, 32),
    ],
)
def test_multiple(tp, cp, sp, fp8, multiple):
    assert sequence_multiple(tp=tp, cp=cp, sequence_parallel=sp, fp8=fp8) == multiple


@pytest.mark.parametrize(("tokens", "cp", "sp"), [(25, 2, 2), (24, 4, 1), (3, 4, 1), (51, 1, 4)])
def test_parts_cover_the_sequence_once_and_in_order(tokens, cp, sp):
    padded = padded_length(tokens, cp * sp)
    rows = []
    for cp_rank in range(cp):
        for sp_rank in range(sp):
            split = TokenSplit(tokens, padded, cp, cp_rank, sp, sp_rank)
            text, video = split.rows_of(0, 2), split.rows_of(2, tokens)
            rows += [*range(*text), *range(*video)]
            assert split.start <= text[0] <= text[1] <= split.stop or text[0] == text[1]
    assert rows == list(range(tokens))


@pytest.mark.parametrize(
    ("asked", "heads", "tp", "cp", "exchange"),
    [
        ("auto", 30, 1, 1, "none"),
        ("auto", 30, 1, 2, "a2a"),
        ("auto", 30, 1, 4, "all_gather"),
        ("auto", 30, 2, 2, "all_gather"),
        ("all_gather", 48, 1, 4, "all_gather"),
        ("p2p", 48, 1, 2, "kernel"),
    ],
)
def test_exchange(asked, heads, tp, cp, exchange):
    assert choose_exchange(asked, heads=heads, tp=tp, cp=cp) == exchange


def test_all_to_all_is_refused_where_heads_do_not_divide():
    with pytest.raises(ValueError, match=r"30 heads.*accepted here: all_gather"):
        choose_exchange("a2a", heads=30, tp=1, cp=4)

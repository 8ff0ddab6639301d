import pytest

from vidtron.data.planning.blend import split_weights


def test_folders_alone() -> None:
    assert split_weights(["a", "s3://b/c", "./7"]) == (["a", "s3://b/c", "./7"], None)
    assert split_weights([]) == ([], None)


def test_weights_are_shares() -> None:
    assert split_weights(["0.7", "a", "0.3", "b"]) == (["a", "b"], pytest.approx([0.7, 0.3]))
    assert split_weights(["3", "a", "1", "./7"]) == (["a", "./7"], [0.75, 0.25])
    assert split_weights(["2", "a"]) == (["a"], [1.0])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["0.7", "a", "b"], "b has no weight"),
        (["a", "0.3", "b"], "a has no weight"),
        (["0.7", "0.3", "a", "b"], r"0.3 stands where a folder is expected; .* \./0.3"),
        (["0.7", "a", "0.3"], "no folder after the weight 0.3"),
        (["0", "a", "1", "b"], "weight 0; accepted: a number above 0"),
        (["-1", "a"], "weight -1; accepted"),
        (["inf", "a"], "weight inf; accepted"),
        (["nan", "a"], "weight nan; accepted"),
    ],
)
def test_mistakes(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_weights(words)

import pyarrow as pa
import pytest

from vidtron.curation.expression import Condition, removed_by_each
from vidtron.curation.table import CurationError

TABLE = pa.table(
    {
        "path": ["a", "b", "c", "d"],
        "aesthetic": [4.0, 5.5, None, 6.0],
        "frames": [10, 20, 30, 0],
        "codec": ["h264", "vp9", None, "av1"],
        "text": ["ä cat", "", None, "two words"],
        "hdr": [True, False, None, True],
        "error": [None, None, "broken", None],
    }
)


def kept(text: str) -> str:
    mask = Condition(text).of(TABLE).to_pylist()
    return "".join(path for path, value in zip("abcd", mask, strict=True) if value)


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("aesthetic >= 5", "bd"),
        ("not aesthetic >= 5", "a"),  # null is neither
        ("aesthetic is null", "c"),
        ("error is not null", "c"),
        ("aesthetic >= 5 and error is null", "bd"),
        ("aesthetic >= 6 or frames == 10 or error is not null", "acd"),
        ("(aesthetic < 5 or frames > 15) and not codec == 'vp9'", "a"),
        ("10 <= frames <= 20", "ab"),
        ("frames / 10 >= 1.5", "bc"),
        ("frames / 4 == 2.5", "a"),
        ("100 / frames > 7", "ad"),  # a division by zero is infinite
        ("frames * 2 - 5 > -frames + 50", "bc"),
        ("codec in ('h264', 'av1')", "ad"),
        ("codec not in ['h264', 'av1']", "b"),
        ("frames in (10, 30)", "ac"),
        ("length(text) == 5", "a"),
        ("hdr", "ad"),
        ("hdr == false", "b"),
        ('codec != "vp9"', "ad"),
    ],
)
def test_conditions(text, paths):
    assert kept(text) == paths


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("aesthetic >=", "accepted: column names"),
        ("beauty > 5", "no column beauty; accepted: path, aesthetic"),
        ("aesthetic", "is no condition"),
        ("aesthetic > 'x'", "aesthetic > 'x'"),
        ("5 > 3", "is no condition"),
        ("codec in (frames, 'x')", "accepted after in"),
        ("codec in frames", "is not understood"),
        ("aesthetic is 5", "is not understood"),
        ("__import__('os').system('true')", "is not understood"),
        ("().__class__.__bases__", "is not understood"),
        ("[x for x in codec] == 1", "is not understood"),
        ("(lambda: 1)()", "is not understood"),
        ("open('/etc/passwd') == 1", "is not understood"),
        ("length(text, 1) == 1", "is not understood"),
        ("frames ** 99999 > 1", "is not understood"),
        ("frames := 5", "accepted: column names"),
        ("f'{frames}' == 'x'", "is not understood"),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(CurationError) as caught:
        Condition(text).of(TABLE)
    assert message in str(caught.value) and str(caught.value).startswith("--where ")


def test_what_each_part_removes():
    condition = Condition("aesthetic >= 5 and (frames > 5 or hdr) and codec != 'vp9'")
    assert removed_by_each(condition, TABLE) == [
        ("aesthetic >= 5", 2, 2),
        ("frames > 5 or hdr", 0, 0),
        ("codec != 'vp9'", 2, 1),
    ]

"""Whatever a JSON text holds, it is read or is a ValueError."""

import pytest

from vidtron.config import foreign_json
from vidtron.config.foreign_json import DEEPEST, parse_json


def test_json_is_read() -> None:
    assert parse_json('{"a": [1, {"b": "\\u00e9\\ud83d\\ude00"}]}') == {"a": [1, {"b": "é😀"}]}
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        assert parse_json('["é"]'.encode(encoding)) == ["é"]
    assert parse_json("[" * DEEPEST + "]" * DEEPEST)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000 + "]" * 100_000, "nested deeper"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested deeper"),
        ("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), "nested deeper"),
        ("9" * 5000, "4300 digits"),
        (b"\xff\xfe\xff", "codec can't decode"),
        ('"\\ud800"', "half of a surrogate pair"),
        ("{", "Expecting"),
        ("", "Expecting"),
    ],
)
def test_what_cannot_be_read_is_an_error(text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)


def test_long_texts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign_json, "MOST_BYTES", 10)
    with pytest.raises(ValueError, match="it has 12 bytes; accepted: at most 10"):
        parse_json(b'"0123456789"')

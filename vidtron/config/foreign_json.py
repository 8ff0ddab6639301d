"""JSON that others have written: whatever it holds, it is read or is an error of one line."""

import json
import re
from typing import Any

DEEPEST = 100
"""Brackets inside one another."""
MOST_BYTES = 64 << 20
"""Most bytes of one text."""
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(text: str | bytes) -> Any:
    """What a JSON text says.

    Args:
        text: or its bytes, in UTF-8, 16 or 32.

    Raises:
        ValueError: it is no JSON, is longer than MOST_BYTES or nested deeper than DEEPEST, or holds characters that
            no file can hold (half of a surrogate pair).
    """
    if len(text) > MOST_BYTES:
        raise ValueError(f"it has {len(text)} bytes; accepted: at most {MOST_BYTES}")
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text))
    try:
        content = json.loads(text)
    except RecursionError:
        raise _too_deep() from None
    level = [content]
    for _ in range(DEEPEST):
        level = [child for one in level for child in _children(one) if isinstance(child, list | dict)]
        if not level:
            break
    else:
        raise _too_deep()
    if _SURROGATE.search(text):
        try:
            json.dumps(content, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("it holds half of a surrogate pair; accepted: whole characters") from None
    return content


def _children(value: Any) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _too_deep() -> ValueError:
    return ValueError(f"it is nested deeper than {DEEPEST} brackets")

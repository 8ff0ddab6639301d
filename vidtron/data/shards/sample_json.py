"""The json of a sample: what it says, and the caption in it."""

from typing import Any

from vidtron.config.foreign_json import parse_json


def parsed(content: str | bytes) -> Any:
    """What a json says.

    Raises:
        ValueError: it is no JSON that `parse_json` takes.
    """
    try:
        return parse_json(content)
    except ValueError as error:
        raise ValueError(f"its .json is no JSON ({error})") from error


def caption_at(entries: Any, key: str) -> str:
    """The text at a key, stripped.

    Args:
        entries: of a json.
        key: name of an entry; with full stops, names inside of one another (and places in lists, from 0 on) where no
            entry has the whole name.

    Raises:
        ValueError: there is none, or no text, or an empty one.
    """
    found = entries
    for name in [key] if isinstance(entries, dict) and key in entries else key.split("."):
        if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        elif isinstance(found, dict) and name in found:
            found = found[name]
        else:
            raise ValueError(f"its .json has no {key}")
    if not isinstance(found, str):
        raise ValueError(f"its .json has no text at {key}")
    if not found.strip():
        raise ValueError(f"its .json has an empty text at {key}")
    return found.strip()

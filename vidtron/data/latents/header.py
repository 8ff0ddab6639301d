"""What a folder of cached latents was made with: `cache.json`.

The entries of a cache are of use only to runs that would compute the same numbers. The header names everything that
decides them, by flag; a run with other values is refused.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vidtron.config.foreign_json import parse_json

HEADER_NAME = "cache.json"
FORMAT, VERSION = "vidtron-latents", 1
FLAG = "--latent-cache"
UNTOLD = {"--posterior": "sample"}
"""Terms that older caches do not tell, and what they were made with."""
_LONG, _FEW = 300, 5  # characters of two values that are told whole; items that are told of longer ones


class LatentCacheError(RuntimeError):
    """A cache of latents that cannot be used or written. `errors` holds one message for each reason."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = errors


def claim(folder: Path, terms: Mapping[str, str]) -> None:
    """Make a folder the cache for `terms`, or make sure that it is. Several processes may do so at once.

    Args:
        folder: new, empty, or a cache.
        terms: what decides the entries' numbers, by the flag or flags that set it.

    Raises:
        LatentCacheError: the folder holds something else, a cache made with other terms, or cannot be written.
    """
    path = folder / HEADER_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            others = sorted(found.name for found in folder.iterdir() if not _is_own(found.name))
            if others:
                raise LatentCacheError(
                    [f"{FLAG} {folder}: holds other files ({', '.join(others[:3])}...); accepted: a new folder"]
                )
            _create(path, {"format": FORMAT, "version": VERSION, "made_with": dict(terms)})
        content = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise LatentCacheError(
            [f"{FLAG} {folder}: cannot be used ({error}); accepted: a folder that can be written"]
        ) from error
    _compare(folder, content, terms)


def _is_own(name: str) -> bool:
    """Of another process that makes the same cache at this moment."""
    return name == HEADER_NAME or name.startswith(f".{HEADER_NAME}")


def _create(path: Path, content: dict[str, Any]) -> None:
    """Write the header unless another process was quicker; it is whole from the moment it is there."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{HEADER_NAME}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
        except OSError:  # a file system without links; there the last one of several processes wins
            os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _difference(theirs: str | None, ours: str | None) -> str:
    """The two values; of long lists only what one has and the other has not."""
    if theirs and ours and len(theirs) + len(ours) > _LONG:
        there, here = theirs.split(", "), ours.split(", ")
        theirs = f"{len(there)} of them, {_few([one for one in there if one not in here])} not in this run"
        ours = f"{len(here)}, {_few([one for one in here if one not in there])} not there"
    return f"{theirs}; this run has {ours}"


def _few(items: list[str]) -> str:
    return (", ".join(items[:_FEW]) or "none") + (f" and {len(items) - _FEW} more" if len(items) > _FEW else "")


def _compare(folder: Path, content: Any, terms: Mapping[str, str]) -> None:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise LatentCacheError(
            [f"{FLAG} {folder}: {HEADER_NAME} is not that of a latent cache; accepted: a new folder"]
        )
    if content.get("version") != VERSION:
        raise LatentCacheError(
            [f"{FLAG} {folder}: has format version {content.get('version')}; accepted: {VERSION}, or a new folder"]
        )
    made_with = content.get("made_with", {})
    if not isinstance(made_with, dict) or not all(isinstance(value, str) for value in made_with.values()):
        raise LatentCacheError(
            [f"{FLAG} {folder}: {HEADER_NAME} does not say what it was made with; accepted: a new folder"]
        )
    made_with = {name: value for name, value in UNTOLD.items() if name in terms} | made_with
    errors = [
        f"{FLAG} {folder}: was made with another {name}: {_difference(made_with.get(name), terms.get(name))}; "
        "accepted: the same, or another folder"
        for name in dict.fromkeys([*terms, *made_with])
        if made_with.get(name) != terms.get(name)
    ]
    if errors:
        raise LatentCacheError(errors)

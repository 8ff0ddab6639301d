"""What a number or a name may be, declared at its field (`lr: Annotated[float, Range(0, 1e3)]`), and the check of it.

Numbers have finite bounds on both sides, wide enough for every sensible run; what works only together with other
flags is the rooms' business. Paths and texts need no declaration.
"""

import dataclasses
import math
import os
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args, get_origin

NAME_BYTES, PATH_BYTES = 255, 4095
"""What file systems take for one folder or file, and the system for a whole path."""
SHOWN_LETTERS = 200


@dataclass(frozen=True)
class Range:
    """The numbers a field accepts, for a sequence each of its elements."""

    least: float
    most: float
    above: bool = False
    """`least` itself is refused."""
    below: bool = False
    """`most` itself is refused."""

    def __contains__(self, value: float) -> bool:
        """False for nan, which compares false with every bound."""
        over = value > self.least if self.above else value >= self.least
        return over and (value < self.most if self.below else value <= self.most)

    def __str__(self) -> str:
        least, most = _number(self.least), _number(self.most)
        if not self.above and not self.below:
            return f"{least} to {most}"
        start = f"more than {least}" if self.above else f"{least} or more"
        return f"{start} and {'less than' if self.below else 'at most'} {most}"


@dataclass(frozen=True)
class Location:
    """Metadata of a text that is a path or an address of an object store."""


class Refusal(NamedTuple):
    """What is wrong with one value."""

    message: str
    hopeless: bool
    """No other check can work with the value: a number beyond its range, or a name that no file can have."""


def refusals(config: Any, prefix: str = "--") -> Iterator[Refusal]:
    """Every number of a dataclass outside its field's range, and every path and text that no system call takes.

    Args:
        config: an instance; fields that hold dataclasses are entered.
        prefix: of the field's name in the messages.
    """
    section: Any = type(config)
    hints = annotations(section)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from refusals(value, prefix)
        else:
            yield from _refused(prefix + field.name.replace("_", "-"), hints[field.name], value)


@cache
def annotations(section: type) -> dict[str, Any]:
    """Field -> type with its metadata."""
    return typing.get_type_hints(section, include_extras=True)


def range_of(annotation: Any) -> Range | None:
    """The range declared in a type: of the number, or of the elements of a sequence."""
    if get_origin(annotation) is Annotated:
        return next((part for part in get_args(annotation) if isinstance(part, Range)), None)
    return next((found for part in get_args(annotation) if (found := range_of(part)) is not None), None)


def field_range(section: type, name: str) -> Range:
    """The range of one field. Raises TypeError if it has none."""
    found = range_of(annotations(section)[name])
    if found is None:
        raise TypeError(f"{section.__name__}.{name} has no Range")
    return found


def shown(value: Any) -> str:
    """A refused value on one line that can be printed, cut where it is long."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except ValueError:  # Python prints no integer of thousands of digits
        text = "a number of thousands of digits"
    text = text if len(text) <= SHOWN_LETTERS else f"{text[:SHOWN_LETTERS]}... ({len(text):,} characters)"
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def name_error(name: str, *, address: bool = False) -> str | None:
    """Why no file can have that path; None if one can.

    `address`: may be one of an object store, whose parts may be longer.
    """
    if not name:
        return "an empty name; accepted: a path, . for the current folder"
    problem = text_error(name)
    if problem is not None:
        return problem
    if address and "://" in name:
        return None
    if any(len(os.fsencode(part)) > NAME_BYTES for part in name.split("/")):
        return f"a name too long for a file system; accepted: at most {NAME_BYTES} bytes between two /"
    if len(os.fsencode(name)) > PATH_BYTES:
        return f"too long for a path; accepted: at most {PATH_BYTES} bytes"
    return None


def text_error(text: str) -> str | None:
    """Why a text cannot be passed on to files and logs; None if it can."""
    if "\0" in text:
        return "holds a null byte; accepted: text without"
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        return "is no UTF-8; accepted: text in UTF-8"
    return None


def _refused(option: str, annotation: Any, value: Any) -> Iterator[Refusal]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _refused(option, annotation, item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        accepted = range_of(annotation)
        if accepted is None:
            if not math.isfinite(value):
                yield Refusal(f"{option} {value}; accepted: a finite number", hopeless=True)
        elif value not in accepted:
            yield Refusal(f"{option} {_number(value)}; accepted: {accepted}", not value <= accepted.most)
    elif isinstance(value, str | Path):
        location = isinstance(value, Path) or _is_location(annotation)
        problem = name_error(str(value), address=isinstance(value, str)) if location else text_error(str(value))
        if problem is not None:
            yield Refusal(f"{option} {shown(str(value))}: {problem}", hopeless=True)


def _is_location(annotation: Any) -> bool:
    return any(isinstance(part, Location) or _is_location(part) for part in get_args(annotation))


def _number(value: float) -> str:
    """`value` as people write it: 1,000,000 and 0.2887."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 10**15:
        value = int(value)
    if isinstance(value, int):
        return shown(value) if abs(value) >= 10**15 else f"{value:,}" if abs(value) >= 10**5 else str(value)
    return f"{value:.4g}"

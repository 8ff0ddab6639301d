"""Types for argparse: a value that cannot be used ends the program with status 2 and says what would be accepted."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from vidtron.config.ranges import Range, name_error, shown, text_error

Number = TypeVar("Number", int, float)

COUNT = Range(1, 1_000_000_000)
MOST_WORKERS = Range(1, 4096)
SECONDS = Range(0, 1_000_000, above=True)


def number_in(kind: type[Number], accepted: Range) -> Callable[[str], Number]:
    """A parser of numbers of that kind within the range, for argparse."""

    def read(word: str) -> Number:
        try:
            value = kind(word)
        except ValueError:
            value = kind(accepted.most) * 2 + 1  # outside, as every word that is no number
        if value not in accepted:
            told = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{shown(word)}; accepted: {told}, {accepted}")
        return value

    return read


def path_name(word: str) -> Path:
    """A name that a file can have."""
    problem = name_error(word)
    if problem is not None:
        raise argparse.ArgumentTypeError(f"{shown(word)!r}: {problem}")
    return Path(word)


def text(word: str) -> str:
    """A text that can be passed on to files and logs."""
    problem = text_error(word)
    if problem is not None:
        raise argparse.ArgumentTypeError(f"{shown(word)!r}: {problem}")
    return word


def tar_words(word: str) -> str:
    """A path, or what webdataset takes for tars: commands, URLs, brace lists, several joined by `::`.

    Of these only the names they stand for can be too long for a file system.
    """
    return text(word) if word.startswith("pipe:") or "{" in word or "::" in word else location(word)


def location(word: str) -> str:
    """A path or an address of an object store; also a weight before one."""
    problem = name_error(word, address=True)
    if problem is not None:
        raise argparse.ArgumentTypeError(f"{shown(word)!r}: {problem}")
    return word

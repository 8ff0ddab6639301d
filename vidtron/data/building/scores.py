"""Scores of samples: numbers that came with them, which the index keeps as columns for filters and reports."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

PREFIX = "score"


def column_of(name: str) -> str:
    """Name of the index column of a score."""
    return name if name.startswith(PREFIX) else f"{PREFIX}_{name}"


def score_names(entries: Iterable[dict[str, Any]], listed: Sequence[str]) -> list[str]:
    """Which entries are scores: those listed, and those whose name starts with "score" and that are numbers wherever
    there is something.

    Args:
        entries: what came with each sample, by name.
        listed: names, in any case scores.

    Raises:
        ValueError: a listed one does not exist, is no number, or would be the same column as another; the message
            begins with --scores.
    """
    numeric: dict[str, bool] = {}
    for entry in entries:
        for name in entry:
            if name in listed or name.startswith(PREFIX):
                try:
                    if score_of(entry[name]) is not None:
                        numeric.setdefault(name, True)
                except (TypeError, ValueError):
                    if name in listed:
                        accepted = "accepted: numbers, or nothing"
                        raise ValueError(f"--scores {name}: {entry[name]!r} is no number; {accepted}") from None
                    numeric[name] = False
    for name in listed:
        if name not in numeric:
            raise ValueError(f"--scores {name}: no sample has it; accepted: names of columns with numbers")
    names = [name for name, good in numeric.items() if good]
    columns_of(names)
    return names


def scores_among(entries: dict[str, Any], listed: Sequence[str]) -> dict[str, float | None]:
    """The scores of one sample's json.

    Raises:
        ValueError: a listed one is no number.
    """
    scores: dict[str, float | None] = {}
    for name, value in entries.items():
        if name in listed or name.startswith(PREFIX):
            try:
                scores[name] = score_of(value)
            except (TypeError, ValueError):
                if name in listed:
                    raise ValueError(f"its {name} is no number: {value!r}") from None
    return scores


def score_of(value: Any) -> float | None:
    """A score as a number; None for nothing, or no finite one. ValueError or TypeError where it is something else."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def columns_of(names: Sequence[str]) -> list[str]:
    """Index columns of scores; ValueError where two would be one."""
    columns = [column_of(name) for name in names]
    for number, column in enumerate(columns):
        if column in columns[:number]:
            other = names[columns.index(column)]
            raise ValueError(f"--scores {names[number]}: {other} is column {column} already; accepted: one of the two")
    return columns

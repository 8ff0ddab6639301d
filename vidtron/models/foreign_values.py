"""Values of other tools' configurations, held to what a network can have."""

from collections.abc import Mapping
from typing import Any

LAYERS = 10_000
HEADS = 1 << 14
WIDTH = 1 << 20
CHANNELS = 1 << 14
PATCH = 64
TEXT_TOKENS = 1 << 20
FRAMES = LATENT_PIXELS = 1 << 12

Limit = int | type[float] | type[bool]
"""The largest whole number; float: a finite number above 0; bool: true or false."""


def wrong_values(values: Mapping[str, Any], limits: Mapping[str, Limit]) -> list[str]:
    """A message for each value that is of another type or out of range; null is as good as absent."""
    problems = []
    for name, limit in limits.items():
        value = values.get(name)
        if value is None:
            continue
        if isinstance(limit, int):
            legal, accepted = type(value) is int and 1 <= value <= limit, f"a whole number from 1 to {limit:,}"
        elif limit is bool:
            legal, accepted = isinstance(value, bool), "true or false"
        else:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            legal, accepted = number and 0 < value < 1e9, "a finite number above 0"
        if not legal:
            problems.append(f"{name}: {_short(value)}; accepted: {accepted}")
    return problems


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # more digits than Python prints
        return "a number of thousands of digits"
    return text if len(text) <= 60 else text[:57] + "..."

"""Many messages about tensors, told in a few lines."""

import re
from collections.abc import Iterable, Sequence

_NUMBER = re.compile(r"\.(\d{1,9})(?=\.)")
_ALIKE = 3
"""So many layers that say the same share a line."""
MOST_LINES = 12


def summarized(problems: Sequence[str], most: int = MOST_LINES) -> list[str]:
    """Messages `NAME: what` in at most `most` lines, and one that counts the rest.

    What is the same for three or more layers becomes one line, with `*` for their numbers:
    `decoder.layers.*.mlp.linear_fc1.weight: missing (0 to 29)`.
    """
    groups: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for problem in problems:
        name, _, what = problem.partition(": ")
        number = _NUMBER.search(name)
        key = (problem, "") if number is None else (collapsed(name), what)
        groups.setdefault(key, []).append((0 if number is None else int(number[1]), problem))
    lines: list[tuple[str, int]] = []
    for (name, what), members in groups.items():
        if len(members) >= _ALIKE and what:
            lines.append((f"{name}: {what} ({ranges(number for number, _ in members)})", len(members)))
        else:
            lines += [(problem, 1) for _, problem in members]
    told = [line for line, _ in lines[:most]]
    left = sum(count for _, count in lines[most:])
    return [*told, f"... and {left:,} more tensors"] if left else told


def collapsed(name: str) -> str:
    """A tensor's name with `*` for its first number, the layer's."""
    return _NUMBER.sub(".*", name, count=1)


def ranges(numbers: Iterable[int]) -> str:
    """Numbers in words: `0 to 3, 5, 7 to 9`."""
    spans: list[list[int]] = []
    for number in sorted(set(numbers)):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in spans)

"""Folders of shards blended by weight."""

import math
from collections.abc import Sequence


def split_weights(words: Sequence[str]) -> tuple[list[str], list[float] | None]:
    """Folders and weights of `--data-path A B` or `--data-path 0.7 A 0.3 B`; without weights, None.

    A folder whose name is a number is written with a path: ./7.

    Raises:
        ValueError: weights and folders do not alternate, or a weight is no number above 0.
    """
    weights = [_number(word) for word in words]
    if all(weight is None for weight in weights):
        return list(words), None
    accepted = "accepted: folders alone, or a weight before each: 0.7 A 0.3 B"
    for i, (word, weight) in enumerate(zip(words, weights, strict=True)):
        if i % 2 == 0 and weight is None:
            raise ValueError(f"{word} has no weight; {accepted}")
        if i % 2 and weight is not None:
            raise ValueError(f"{word} stands where a folder is expected; {accepted} (a folder of that name: ./{word})")
        if weight is not None and not (weight > 0 and math.isfinite(weight)):
            raise ValueError(f"weight {word}; accepted: a number above 0")
    if len(words) % 2:
        raise ValueError(f"no folder after the weight {words[-1]}; {accepted}")
    total = sum(weight for weight in weights if weight is not None)
    return list(words[1::2]), [weight / total for weight in weights if weight is not None]


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None

"""What `--frame-masks` says."""

from collections.abc import Sequence

from vidtron.diffusion.frame_masks import STRATEGIES

OTHER_NAMES = {"no": "identity", "intepolate": "interpolate"}
"""Open-Sora 1.1's name, and 1.2's spelling."""
PREFIX_1_1 = "mask_"
ROUNDING = 1e-6


def parse_frame_masks(words: Sequence[str]) -> list[tuple[str, float]]:
    """(strategy, probability) in the order given, with what is left to 1 as `identity` at the end.

    Accepted are the names of Open-Sora 1.1, with `mask_` before them, and those of 1.2. As there, the probabilities
    sum to 1 where `identity` is among them or names are 1.1's.

    Raises:
        ValueError: with the flag, what is wrong with it and what is accepted.
    """
    if not words:
        return []
    if len(words) % 2:
        raise ValueError(f"--frame-masks {' '.join(words)}: accepted: STRATEGY PROBABILITY, in pairs")
    strategies: list[tuple[str, float]] = []
    for word, number in zip(words[::2], words[1::2], strict=True):
        name = OTHER_NAMES.get(word.removeprefix(PREFIX_1_1), word.removeprefix(PREFIX_1_1))
        if name not in STRATEGIES:
            accepted = f"{', '.join(STRATEGIES)}, no, intepolate, each also with {PREFIX_1_1} before it"
            raise ValueError(f"--frame-masks {word}: accepted: {accepted}")
        if name in dict(strategies):
            raise ValueError(f"--frame-masks {word}: given twice; accepted: each strategy once")
        strategies.append((name, _probability(word, number)))
    total = sum(probability for _, probability in strategies)
    whole = "identity" in dict(strategies) or any(word.startswith(PREFIX_1_1) for word in words[::2])
    if total > 1 + ROUNDING or (whole and total < 1 - ROUNDING):
        accepted = "1, as identity or a name of Open-Sora 1.1 (mask_...) is among them" if whole else "at most 1"
        raise ValueError(f"--frame-masks: probabilities sum to {total:g}; accepted: {accepted}")
    return strategies if whole else [*strategies, ("identity", max(0.0, 1.0 - total))]


def _probability(name: str, number: str) -> float:
    try:
        probability = float(number)
    except ValueError:
        probability = -1.0
    if not 0 <= probability <= 1:
        raise ValueError(f"--frame-masks {name} {number}: accepted: a probability, 0 to 1")
    return probability

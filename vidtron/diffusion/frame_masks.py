"""Which frames of a training sample are given clean: Open-Sora's strategies for image-to-video and long video.

A mask has one value for each frame, True where the frame is learned, False where it is given. Names are those of
Open-Sora 1.2, whose strategies but `random` and `interpolate` are those of 1.1 too; random numbers are drawn in the
order of both, so that one `random.Random` gives their masks.
"""

import random
from collections.abc import Callable, Sequence

Uniform = Callable[[int], Sequence[float]]
"""So many numbers in [0, 1). Open-Sora takes them from torch, everything else from Python's `random`."""

Strategy = Callable[[int, random.Random, Uniform], list[bool]]
"""(frames, at least 2; source; second source) -> mask."""


def _identity(frames: int, draw: random.Random, uniform: Uniform) -> list[bool]:
    return [True] * frames


def _without(frames: int, *given: range) -> list[bool]:
    kept = {frame for frames_given in given for frame in frames_given}
    return [frame not in kept for frame in range(frames)]


def _somewhere(frames: int, size: int, draw: random.Random) -> list[bool]:
    first = draw.randint(0, frames - size)
    return _without(frames, range(first, first + size))


def _head(frames: int, size: int, draw: random.Random) -> list[bool]:
    return _without(frames, range(size))


def _tail(frames: int, size: int, draw: random.Random) -> list[bool]:
    return _without(frames, range(frames - size, frames))


def _head_tail(frames: int, size: int, draw: random.Random) -> list[bool]:
    return _without(frames, range(size), range(frames - size, frames))


def _one_frame(place: Callable[[int, int, random.Random], list[bool]]) -> Strategy:
    return lambda frames, draw, uniform: place(frames, 1, draw)


def _up_to_a_quarter(place: Callable[[int, int, random.Random], list[bool]]) -> Strategy:
    # Open-Sora fails on 2 and 3 frames, a quarter of which is less than one.
    return lambda frames, draw, uniform: place(frames, draw.randint(1, max(1, frames // 4)), draw)


def _scattered(frames: int, draw: random.Random, uniform: Uniform) -> list[bool]:
    share_given = draw.uniform(0.1, 0.9)
    return [number > share_given for number in uniform(frames)]


def _every_second(frames: int, draw: random.Random, uniform: Uniform) -> list[bool]:
    return _without(frames, range(draw.randint(0, 1), frames, 2))


STRATEGIES: dict[str, Strategy] = {  # --frame-masks takes these names
    "identity": _identity,
    "quarter_random": _up_to_a_quarter(_somewhere),
    "quarter_head": _up_to_a_quarter(_head),
    "quarter_tail": _up_to_a_quarter(_tail),
    "quarter_head_tail": _up_to_a_quarter(_head_tail),
    "image_random": _one_frame(_somewhere),
    "image_head": _one_frame(_head),
    "image_tail": _one_frame(_tail),
    "image_head_tail": _one_frame(_head_tail),
    "random": _scattered,
    "interpolate": _every_second,
}


def draw_frame_mask(
    strategies: Sequence[tuple[str, float]], frames: int, draw: random.Random, uniform: Uniform
) -> list[bool]:
    """The mask of one sample: True where a frame is learned. A sample of one frame has it learned.

    Where a strategy would leave nothing to learn (both ends of 2 frames), the last frame is learned.

    Args:
        strategies: names with their probabilities, which sum to 1.
        frames: of the sample.
        draw: source of all numbers but those of `random`.
        uniform: source of those; see `Uniform`.

    Raises:
        ValueError: there is no such strategy, or no frame.
    """
    if frames < 1:
        raise ValueError(f"a mask of {frames} frames; accepted: 1 or more")
    number, reached, chosen = draw.random(), 0.0, "identity"
    for name, probability in strategies:
        if name not in STRATEGIES:
            raise ValueError(f"frame mask {name}; accepted: {', '.join(STRATEGIES)}")
        reached += probability
        if number < reached:
            chosen = name
            break
    if frames == 1:
        return [True]
    mask = STRATEGIES[chosen](frames, draw, uniform)
    if not any(mask):
        mask[-1] = True
    return mask

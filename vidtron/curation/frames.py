"""Frames of a file for measurements: RGB, uint8, [H, W, 3], upright.

Frames are counted from the first one and reached by decoding: exact for every container, and quick for clips. A long
video is measured after it is cut.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from vidtron.data.decoding.pyav import UndecodableError, opened, rgb_HWC


def count_frames(path: Path) -> int:
    """Coded pictures of a file, without decoding them."""
    with opened(path) as (container, stream):
        return sum(1 for packet in container.demux(stream) if packet.size)


def frames_at(path: Path, numbers: Sequence[int]) -> list[np.ndarray]:
    """The frames with these numbers, in the order asked for; beyond the end the last one.

    Raises:
        UndecodableError: no frames, or one on the way is damaged.
    """
    wanted = set(numbers)
    found: dict[int, np.ndarray] = {}
    last = None
    for number, frame in enumerate(_decoded(path)):
        last = frame
        if number in wanted:
            found[number] = rgb_HWC(frame)
        if number >= max(numbers):
            break
    if last is None:
        raise UndecodableError("there are no frames in it")
    if len(found) < len(wanted):
        end = rgb_HWC(last)
        found |= {number: end for number in wanted if number not in found}
    return [found[number] for number in numbers]


def frames_at_shares(path: Path, shares: Sequence[float]) -> list[np.ndarray]:
    """The frames at these shares of a file, 0 for the first and 1 for the last."""
    count = count_frames(path)
    return frames_at(path, [min(int(share * count), count - 1) for share in shares])


def every(path: Path, interval: int) -> Iterator[np.ndarray]:
    """Frames 0, interval, 2 x interval ...; UndecodableError for a damaged one on the way."""
    for number, frame in enumerate(_decoded(path)):
        if number % interval == 0:
            yield rgb_HWC(frame)


def _decoded(path: Path) -> Iterator[object]:
    with opened(path) as (container, stream):
        for number, frame in enumerate(container.decode(stream)):
            if frame.is_corrupt:
                raise UndecodableError(f"frame {number} is damaged")
            yield frame

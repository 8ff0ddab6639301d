"""Decoding with PyAV: every codec, on the CPU.

Shapes: T frames, H height, W width, C colours.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import av
import numpy as np

from vidtron.data.index import ClipFacts

_READ_FROM_START = 8  # frames so near the start are reached as fast without seeking


class UndecodableError(ValueError):
    """A clip that a decoder cannot read; the message says why."""


@contextmanager
def opened(source: Any) -> Iterator[tuple[Any, Any]]:
    """(container, first video stream) of a path or of bytes, decoded with one thread.

    One thread, because clips are decoded side by side. Errors of FFmpeg inside the block become UndecodableError.
    """
    try:
        with av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source)) as container:
            if not container.streams.video:
                raise UndecodableError("there is no video in it")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            yield container, stream
    except (av.error.FFmpegError, OSError) as error:
        raise UndecodableError(error.strerror or type(error).__name__) from error


def rgb_HWC(frame: Any) -> np.ndarray:
    """One frame as RGB, uint8, turned upright."""
    image_HWC = frame.reformat(format="rgb24", threads=1).to_ndarray()
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image_HWC, turns)) if turns else image_HWC


def decode(content: bytes, clip: ClipFacts, numbers: list[int]) -> Iterator[tuple[int, np.ndarray]]:
    """(number, RGB image [H, W, C]) of each wanted frame, once, in rising order.

    Only the frames from the key frame before the first wanted one to the last wanted one are decoded, where the
    clip's facts allow to seek.

    Raises:
        UndecodableError: damaged, or shorter than its facts say.
    """
    wanted = sorted(set(numbers))
    seeks = clip.plain and clip.times is None and wanted[0] >= _READ_FROM_START
    if seeks:
        start = _start_by_seeking(content, clip, wanted[0])
        if start is not None:
            yield from _frames(content, clip, wanted, start)
            return
    yield from _frames(content, clip, wanted, None)


def _frames(
    content: bytes, clip: ClipFacts, wanted: list[int], seek_pts: int | None
) -> Iterator[tuple[int, np.ndarray]]:
    remaining = iter(wanted)
    due: int | None = next(remaining)
    with opened(content) as (container, stream):
        number = -1
        if seek_pts is not None:
            container.seek(seek_pts, stream=stream)
        for frame in container.decode(stream):
            number = _number(frame, stream, clip) if number < 0 and seek_pts is not None else number + 1
            if due is not None and number > due:  # the seek went too far
                yield from _frames(content, clip, wanted, None)
                return
            if number == due:
                if frame.is_corrupt:
                    raise UndecodableError(f"frame {number} is damaged")
                yield number, rgb_HWC(frame)
                due = next(remaining, None)
                if due is None:
                    return
    raise UndecodableError(f"frame {due} of {clip.frames} is missing")


def _start_by_seeking(content: bytes, clip: ClipFacts, number: int) -> int | None:
    """Time stamp to seek to for a frame, or None where a seek does not land at or before it."""
    with opened(content) as (container, stream):
        first = stream.start_time or 0
        target = first + round(number / clip.fps / stream.time_base)
        container.seek(target, stream=stream)
        packet = next(container.demux(stream), None)
        if packet is None or packet.pts is None or packet.pts > target or not packet.is_keyframe:
            return None
        return target


def _number(frame: Any, stream: Any, clip: ClipFacts) -> int:
    """Number of a frame of a clip with regular time stamps."""
    return round(float((frame.pts - (stream.start_time or 0)) * stream.time_base) * clip.fps)

"""Decoding with PyAV: every codec, on the CPU.

Shapes: H height, W width, C colours.
"""

import bisect
import contextlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import av
import numpy as np

from vidtron.data.decoding.mp4_claims import claimed_size
from vidtron.data.limits import LARGEST_SIDE, claim_problem
from vidtron.data.shards.index import ClipFacts

_MOST_TIMES_THE_INDEX = 10  # a clip that claims more pixels than this times what its index says is refused likewise
_ALWAYS_ALLOWED_PIXELS = 1 << 16  # codecs round small pictures up to whole blocks
_READ_FROM_START = 8  # frames so near the start are reached as fast without seeking


class UndecodableError(ValueError):
    """A clip that a decoder cannot read; the message says why."""


@contextmanager
def opened(source: Any, max_pixels: int = LARGEST_SIDE**2) -> Iterator[tuple[Any, Any]]:
    """(container, first video stream) of a path or of bytes, decoded with one thread.

    One thread, because clips are decoded side by side. Errors of FFmpeg inside the block become UndecodableError, and
    so do claims beyond `vidtron.data.limits`, before anything is decoded.

    Args:
        source: path, or bytes.
        max_pixels: FFmpeg refuses pictures of more, also where only the coded pictures tell their size.
    """
    limits = {"max_pixels": str(max_pixels)}
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
            if problem := claim_problem(*claimed_size(file), 0, 0.0):
                raise UndecodableError(problem)
        with av.open(
            io.BytesIO(source) if isinstance(source, bytes) else _file_name(source),
            options=limits,
            metadata_errors="replace",
        ) as container:
            if not container.streams.video:
                raise UndecodableError("there is no video in it")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise UndecodableError("its codec is not known")
            context = stream.codec_context
            seconds = (container.duration or 0) / av.time_base
            if stream.duration and stream.time_base:
                seconds = max(seconds, float(stream.duration * stream.time_base))
            if problem := claim_problem(context.width, context.height, stream.frames, seconds):
                raise UndecodableError(problem)
            context.thread_count = 1
            context.options = limits
            yield container, stream
    except (av.error.FFmpegError, OSError) as error:
        raise UndecodableError(error.strerror or type(error).__name__) from error


def _file_name(path: Any) -> str:
    """A path that FFmpeg takes for one: a relative "concat:a" or "http:b" would be something else to it."""
    return os.path.join(".", path)


@contextmanager
def opened_as_known(content: bytes, clip: ClipFacts) -> Iterator[tuple[Any, Any]]:
    """A clip with known facts, `opened`: one that claims to be far larger is refused before it is decoded.

    Raises:
        UndecodableError: as `opened`, or a size that lies.
    """
    max_pixels = max(_MOST_TIMES_THE_INDEX * clip.width * clip.height, _ALWAYS_ALLOWED_PIXELS)
    with opened(content, min(LARGEST_SIDE**2, max_pixels)) as (container, stream):
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > max_pixels:
            raise UndecodableError(
                f"it claims {width} x {height} pixels where the index says {clip.width} x {clip.height}; "
                f"accepted: at most {_MOST_TIMES_THE_INDEX} times the index's pixels"
            )
        yield container, stream


def check_packets(content: bytes, clip: ClipFacts, last: int) -> None:
    """Refuse a plain clip whose file does not hold whole packets for all frames up to the last wanted one.

    Raises:
        UndecodableError: packets are missing or cut short, or as `opened_as_known`.
    """
    with opened_as_known(content, clip) as (container, stream):
        packets = [(packet.pts, packet.is_corrupt) for packet in container.demux(stream) if packet.size]
    if len(packets) <= last:
        raise UndecodableError(f"frame {last} of {clip.frames} is missing")
    if any(pts is None for pts, _ in packets) or any(cut for _, cut in sorted(packets)[: last + 1]):
        raise UndecodableError("the file ends in a packet")


def rgb_HWC(frame: Any) -> np.ndarray:
    """One frame as RGB, uint8, turned upright."""
    image_HWC = frame.reformat(format="rgb24", threads=1).to_ndarray()
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image_HWC, turns)) if turns else image_HWC


def decode(content: bytes, clip: ClipFacts, numbers: list[int]) -> Iterator[tuple[int, np.ndarray]]:
    """(number, RGB image [H, W, C] of the full size) of each wanted frame, once, in rising order.

    Raises:
        UndecodableError: as `wanted_frames`.
    """
    for number, frame in wanted_frames(content, clip, numbers):
        yield number, rgb_HWC(frame)


def wanted_frames(content: bytes, clip: ClipFacts, numbers: list[int]) -> Iterator[tuple[int, Any]]:
    """(number, frame of PyAV) of each wanted frame, once, in rising order.

    Only the frames from the key frame before the first wanted one to the last wanted one are decoded, where the
    clip's facts allow to seek. Damage after the last wanted frame does not matter.

    Raises:
        UndecodableError: a packet on the way to the last wanted frame is damaged; the clip is shorter than its facts
        say; its pictures have another size than they say, which no picture of a healthy clip has.
    """
    wanted = sorted(set(numbers))
    if clip.plain and clip.times is None and wanted[0] >= _READ_FROM_START:
        with opened_as_known(content, clip) as (container, stream):
            target = (stream.start_time or 0) + round(wanted[0] / clip.fps / stream.time_base)
            if _lands_before(container, stream, target):
                container.seek(target, stream=stream)
                # Some key frames are none: pictures after them look back past them. Read from its start, such a clip
                # is whole, and another one really damaged.
                with contextlib.suppress(UndecodableError):
                    for number, frame in _Walk(container, stream, clip, wanted, sought=True).frames():
                        yield number, frame
                        wanted = wanted[1:]
        if not wanted:
            return
    with opened_as_known(content, clip) as (container, stream):
        yield from _Walk(container, stream, clip, wanted, sought=False).frames()


def _lands_before(container: Any, stream: Any, target: int) -> bool:
    """Whether seeking to a time stamp leads to a key frame at or before it."""
    try:
        container.seek(target, stream=stream)
    except av.error.FFmpegError:
        return False
    packet = next(container.demux(stream), None)
    return packet is not None and packet.pts is not None and packet.pts <= target and packet.is_keyframe


class _Walk:
    """One pass over a clip's packets, from where its container stands to the last wanted frame."""

    def __init__(self, container: Any, stream: Any, clip: ClipFacts, wanted: list[int], *, sought: bool) -> None:
        self.container = container
        self.stream = stream
        self.clip = clip
        self.wanted = wanted
        self.sought = sought
        self._error: UndecodableError | None = None

    def frames(self) -> Iterator[tuple[int, Any]]:
        """The wanted frames; none where it stands behind the first of them already: the container lies about its key
        frames."""
        remaining = iter(self.wanted)
        due = next(remaining)
        number, damaged = -1, False
        for frame in self._decoded():
            number = self._number(frame) if number < 0 and self.sought else number + 1
            if number > due:
                return
            # What a damaged frame shows is carried on until the next key frame.
            damaged = frame.is_corrupt or (damaged and not frame.key_frame)
            if number < due:
                continue
            if damaged:
                raise UndecodableError(f"frame {number} is damaged")
            size = (frame.height, frame.width) if frame.rotation % 180 else (frame.width, frame.height)
            if size != (self.clip.width, self.clip.height):
                raise UndecodableError(
                    f"frame {number} has {size[0]} x {size[1]} pixels where the index says "
                    f"{self.clip.width} x {self.clip.height}"
                )
            yield number, frame
            following = next(remaining, None)
            if following is None:
                return
            due = following
        raise self._error or UndecodableError(f"frame {due} of {self.clip.frames} is missing")

    def _decoded(self) -> Iterator[Any]:
        """Frames until the end, or until damage that is not needed."""
        for packet in self.container.demux(self.stream):
            try:
                if packet.is_corrupt:  # decoders may show something of it all the same
                    raise UndecodableError("the file ends")
                frames = packet.decode()
            except (av.error.FFmpegError, UndecodableError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                self._error = UndecodableError(f"{reason} in a packet")
                if not self._is_behind_all(packet):
                    raise self._error from error
                frames = self.stream.codec_context.decode(None)
            yield from frames
            if self._error is not None:
                return

    def _is_behind_all(self, packet: Any) -> bool:
        """Whether a packet is shown after the last wanted frame, as far as its time stamp can be trusted."""
        if not self.clip.plain or packet.pts is None:
            return False
        seconds = float((packet.pts - (self.stream.start_time or 0)) * self.stream.time_base)
        if self.clip.times is None:
            return round(seconds * self.clip.fps) > self.wanted[-1]
        return bisect.bisect_left(self.clip.times, seconds - 1e-3) > self.wanted[-1]

    def _number(self, frame: Any) -> int:
        """Number of a frame of a clip with regular time stamps."""
        if frame.pts is None:
            raise UndecodableError("it has a frame without a time stamp")
        return round(float((frame.pts - (self.stream.start_time or 0)) * self.stream.time_base) * self.clip.fps)

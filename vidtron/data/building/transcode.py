"""Cutting, rescaling and re-encoding a clip with PyAV."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from vidtron.data.decoding.pyav import UndecodableError, opened, rgb_HWC
from vidtron.data.planning.windows import TOLERANCE_SECONDS

Codec = Literal["vp9", "h264", "mjpeg"]
_KEY_FRAME_EVERY = 24  # frames; a random window then costs at most this many extra frames
# A piece from the middle of a long video is decoded from a key frame at least this long before it: some files mark key
# frames from which the first pictures do not come out right.
_SEEK_MARGIN_SECONDS = 10.0
_ENCODERS: dict[str, tuple[str, str, dict[str, str]]] = {
    # "realtime" with cpu-used 6 is three times as fast as "good" and as near to the source at this crf (both 43 dB).
    "vp9": ("libvpx-vp9", "yuv420p", {"deadline": "realtime", "cpu-used": "6", "crf": "20", "b": "0"}),
    "h264": ("libx264", "yuv420p", {"preset": "veryfast", "crf": "18"}),
    "mjpeg": ("mjpeg", "yuvj420p", {"qmin": "2", "qmax": "3"}),
}


@dataclass(frozen=True)
class Edit:
    """What is changed in a clip on its way into a shard."""

    start: float = 0.0
    """Seconds left out at the beginning."""
    seconds: float | None = None
    """Seconds kept after the start; None: all."""
    height: int | None = None
    """Pixels; the clip is made smaller until it just covers height x width (nothing is cropped, nothing enlarged)."""
    width: int | None = None
    fps: float | None = None
    """Frames a second, by time stamps; None: every frame with its time stamp."""

    def changes(self) -> bool:
        """Whether anything is changed at all."""
        return self != Edit()


def transcode(source: Path | bytes, edit: Edit, codec: Codec) -> bytes:
    """An mp4 with the edited video (no sound), key frames every 24 frames, BT.601 colours (what all decoders assume
    without asking).

    Raises:
        UndecodableError: the source cannot be read, or nothing of it is left.
    """
    encoder, pixel_format, options = _ENCODERS[codec]
    target = io.BytesIO()
    with opened(source) as (container, stream), av.open(target, "w", format="mp4") as output:
        out: Any = None
        for seconds, frame in _resampled(_cut(container, stream, edit), edit.fps):
            if out is None:
                rate = Fraction(edit.fps).limit_denominator(1001) if edit.fps else stream.average_rate or Fraction(25)
                out = output.add_stream(encoder, rate=rate, options=options)
                out.width, out.height = scaled_size(*_upright_size(frame), edit.width, edit.height)
                out.pix_fmt = pixel_format
                context = out.codec_context
                context.thread_count = 1
                context.gop_size = _KEY_FRAME_EVERY
                context.time_base = 1 / rate if edit.fps else Fraction(1, 90000)
                context.colorspace = Colorspace.ITU601
                context.color_range = ColorRange.JPEG if codec == "mjpeg" else ColorRange.MPEG
            image = _converted(frame, out.width, out.height, pixel_format)
            image.time_base = out.codec_context.time_base
            image.pts = round(seconds / image.time_base)
            output.mux(out.encode(image))
        if out is None:
            raise UndecodableError("no frames are left of it")
        output.mux(out.encode(None))
    return target.getvalue()


def remux(source: Path | bytes) -> bytes:
    """The clip's coded video in an mp4, without sound.

    Raises:
        UndecodableError: mp4 cannot hold it.
    """
    target = io.BytesIO()
    with opened(source) as (container, stream):
        packets = [packet for packet in container.demux(stream) if packet.size]  # the last, empty one is no picture
        _complete_decoding_times(packets)
        try:
            with av.open(target, "w", format="mp4") as output:
                out = output.add_stream_from_template(stream)
                for packet in packets:
                    packet.stream = out
                    output.mux(packet)
        except (av.error.FFmpegError, ValueError) as error:
            name = stream.codec_context.name
            raise UndecodableError(f"mp4 cannot hold {name} ({error}); accepted with --codec vp9 or h264") from error
    return target.getvalue()


def _complete_decoding_times(packets: list[Any]) -> None:
    """Some containers store no decoding times, which mp4 needs: make them from the times of presentation."""
    if all(packet.dts is not None for packet in packets):
        return
    if any(packet.pts is None for packet in packets):
        raise UndecodableError("it has pictures without a time stamp; accepted with --codec vp9 or h264")
    rising = sorted(packet.pts for packet in packets)
    delay = max(time - packet.pts for time, packet in zip(rising, packets, strict=True))
    for time, packet in zip(rising, packets, strict=True):
        packet.dts = time - delay


def scaled_size(width: int, height: int, cover_width: int | None, cover_height: int | None) -> tuple[int, int]:
    """Even (width, height) of the smallest picture of the same shape that covers the wanted size; never larger than
    it was."""
    scale = max((cover_width or 0) / width, (cover_height or 0) / height) or 1.0
    scale = min(scale, 1.0)
    return _even(width, scale, cover_width), _even(height, scale, cover_height)


def _even(size: int, scale: float, at_least: int | None) -> int:
    """The even number next to `size` x `scale`: encoders of 4:2:0 colour need it. Not below `at_least` because of
    rounding, and not above `size`."""
    even = max(2, round(size * scale / 2) * 2)
    if at_least is not None and even < at_least <= size:
        even += 2
    return even - 2 if even > max(size, 2) else even


def _cut(container: Any, stream: Any, edit: Edit) -> Iterator[tuple[float, Any]]:
    """(seconds after the cut's first frame, frame) of the frames inside the cut."""
    zero = None if stream.start_time is None else float(stream.start_time * stream.time_base)
    if zero is not None and edit.start > _SEEK_MARGIN_SECONDS:
        target = stream.start_time + int((edit.start - _SEEK_MARGIN_SECONDS) / stream.time_base)
        container.seek(target, stream=stream)
    cut_first = None
    for frame in container.decode(stream):
        if frame.pts is None:
            raise UndecodableError("it has a frame without a time stamp")
        stamp = float(frame.pts * frame.time_base)
        zero = stamp if zero is None else zero
        seconds = stamp - zero - edit.start
        if seconds < -TOLERANCE_SECONDS:
            continue
        if edit.seconds is not None and seconds >= edit.seconds - TOLERANCE_SECONDS:
            return
        if frame.is_corrupt:
            raise UndecodableError(f"its frame at {stamp:.3f} s is damaged")
        cut_first = seconds if cut_first is None else cut_first
        yield seconds - cut_first, frame


def _resampled(frames: Iterator[tuple[float, Any]], fps: float | None) -> Iterator[tuple[float, Any]]:
    """The frames shown at 0, 1/fps, 2/fps ... until the last frame's time; all of them for None."""
    if fps is None:
        yield from frames
        return
    number = 0
    shown = None
    last = 0.0
    for seconds, frame in frames:
        while shown is not None and number / fps < seconds - TOLERANCE_SECONDS:
            yield number / fps, shown
            number += 1
        shown, last = frame, seconds
    if shown is not None and number / fps <= last + TOLERANCE_SECONDS:
        yield number / fps, shown


def _upright_size(frame: Any) -> tuple[int, int]:
    return (frame.height, frame.width) if frame.rotation % 180 else (frame.width, frame.height)


def _converted(frame: Any, width: int, height: int, pixel_format: str) -> Any:
    if frame.rotation:
        frame = av.VideoFrame.from_ndarray(rgb_HWC(frame), format="rgb24")
    full = pixel_format.startswith("yuvj")
    return frame.reformat(
        width,
        height,
        pixel_format,
        dst_colorspace=Colorspace.ITU601,
        dst_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
        interpolation=Interpolation.BICUBIC,
        threads=1,
    )

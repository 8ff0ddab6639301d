"""What a clip really holds, found by decoding all of it once."""

import math
import zlib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from vidtron.data.decoding.pyav import UndecodableError, opened
from vidtron.data.limits import MOST_FPS, MOST_FRAMES, MOST_SECONDS
from vidtron.data.shards.sample import IMAGE_EXTENSIONS, ClipFacts

_REGULAR = 0.25  # a time stamp off by more than this part of a frame's time makes the clip irregular


def probe_media(content: bytes, extension: str) -> ClipFacts:
    """Facts of a clip or, after its extension, of an image: a clip of one frame at 1 frame a second.

    Raises:
        UndecodableError: as `probe`, or an image of several pictures.
    """
    facts = probe(content)
    if extension not in IMAGE_EXTENSIONS:
        return facts
    if facts.frames != 1:
        raise UndecodableError(f"there are {facts.frames} pictures in it; accepted: one")
    # Not plain: decoders of video do not read it.
    return replace(facts, fps=1.0, duration=0.0, plain=False, times=None)


def probe(source: bytes | Path) -> ClipFacts:
    """Facts of a clip.

    Raises:
        UndecodableError: it has no video, no frames, damaged frames, frames of several sizes, or more of something
            than `vidtron.data.limits` allows.
    """
    with opened(source) as (container, stream):
        packets, frames = _decode_all(container, stream)
        if not frames:
            raise UndecodableError("there are no frames in it")
        seconds = _seconds(frames, stream)
        width, height, rotation = frames[0]["size"]
        last = seconds[-1]
        fps = (len(frames) - 1) / last if last > 0 else min(float(stream.average_rate or 1), MOST_FPS)
        fps = round(fps, 6)
        duration = len(frames) / fps if fps else math.inf
        if fps > MOST_FPS or duration > MOST_SECONDS:
            raise UndecodableError(
                f"it shows {fps:.6g} frames a second for {duration:.6g} seconds; accepted: at most {MOST_FPS:g} for "
                f"{MOST_SECONDS:g}"
            )
        regular = all(abs(time * fps - i) < _REGULAR for i, time in enumerate(seconds))
        return ClipFacts(
            width=height if rotation % 180 else width,
            height=width if rotation % 180 else height,
            frames=len(frames),
            fps=fps,
            duration=duration,
            codec=stream.codec_context.codec.canonical_name,
            pixel_format=stream.codec_context.pix_fmt or "unknown",
            plain=rotation == 0
            and _numbered_alike(packets, frames, stream)
            and _starts_cleanly(container, stream, packets, frames),
            times=None if regular else tuple(round(time, 6) for time in seconds),
        )


def seconds_of_video(source: bytes | Path) -> float:
    """Length as the container tells it, or by its time stamps, without decoding.

    Raises:
        UndecodableError: it cannot be opened or tells no time.
    """
    with opened(source) as (container, stream):
        if stream.duration:
            return float(stream.duration * stream.time_base)
        if container.duration:
            return container.duration / 1e6  # AV_TIME_BASE
        stamps = [packet.pts for packet in container.demux(stream) if packet.pts is not None]
        if not stamps:
            raise UndecodableError("it tells no time")
        return float((max(stamps) - min(stamps)) * stream.time_base) + 1 / float(stream.average_rate or 25)


def _decode_all(container: Any, stream: Any) -> tuple[list[Any], list[dict[str, Any]]]:
    packets: list[Any] = []
    frames: list[dict[str, Any]] = []
    for packet in container.demux(stream):
        if packet.size:  # the last, empty one flushes the decoder
            packets.append((packet.pts, packet.is_keyframe, packet.is_discard))
        for frame in packet.decode():
            size = (frame.width, frame.height, frame.rotation)
            if frame.is_corrupt:
                raise UndecodableError(f"frame {len(frames)} is damaged")
            if frames and size != frames[0]["size"]:
                raise UndecodableError(f"its size changes at frame {len(frames)}")
            if len(frames) == MOST_FRAMES:
                raise UndecodableError(f"it has more than {MOST_FRAMES} frames")
            frames.append({"pts": frame.pts, "size": size, "checksum": _checksum(frame)})
    return packets, frames


def _checksum(frame: Any) -> int:
    return zlib.crc32(frame.reformat(format="gray", threads=1).to_ndarray().tobytes())


def _seconds(frames: list[dict[str, Any]], stream: Any) -> list[float]:
    """Time of each frame after the first; frames without (rising) time stamps are taken as regular."""
    stamps = [frame["pts"] for frame in frames]
    if any(stamp is None for stamp in stamps) or any(b <= a for a, b in pairwise(stamps)):
        rate = float(stream.average_rate or 25)
        return [i / rate for i in range(len(frames))]
    return [float((stamp - stamps[0]) * stream.time_base) for stamp in stamps]


def _numbered_alike(packets: list[Any], frames: list[dict[str, Any]], stream: Any) -> bool:
    """Whether counting packets in the order of their time stamps numbers the frames."""
    stamps = [pts for pts, _, _ in packets]
    if any(pts is None or discarded for pts, _, discarded in packets):
        return False
    return (
        sorted(stamps) == [frame["pts"] for frame in frames]
        and stamps[0] == (stream.start_time or 0) == frames[0]["pts"]
    )


def _starts_cleanly(container: Any, stream: Any, packets: list[Any], frames: list[dict[str, Any]]) -> bool:
    """Whether decoding gives the same frames when it starts at any of the key frames.

    Containers mark frames as key frames that are none (an I frame whose followers look back past it).
    """
    keys = sorted(pts for pts, key, _ in packets if key)
    if stream.codec_context.codec.intra_only:
        return True  # every frame stands alone
    if not keys or keys[0] != frames[0]["pts"]:
        return False
    checksums = {frame["pts"]: frame["checksum"] for frame in frames}
    stamps = [frame["pts"] for frame in frames]
    for key, following in pairwise([*keys[1:], stamps[-1] + 1] if len(keys) > 1 else []):
        due = [stamp for stamp in stamps if key <= stamp < following]
        # Sought by a frame in the middle: an index that lies about key frames is not found out by asking for a true
        # one.
        container.seek(due[len(due) // 2], stream=stream)
        found = []
        for frame in container.decode(stream):
            if frame.pts is None or frame.pts >= following:
                break
            if frame.pts >= key:
                found.append(frame.pts)
                if _checksum(frame) != checksums.get(frame.pts):
                    return False
        if found != due:
            return False
    return True

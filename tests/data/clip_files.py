"""Small clips whose frames show their own number, and folders of shards made of them."""

import io
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image
from torch import Tensor

from vidtron.data.building.shard_writer import BuildOptions, build
from vidtron.data.shards.index import ShardIndex

BITS = 6
ENCODERS = {
    "h264": ("libx264", "yuv420p", {"crf": "12", "preset": "veryfast"}),
    "hevc": ("libx265", "yuv420p", {"crf": "12", "preset": "veryfast", "x265-params": "log-level=none"}),
    "vp9": ("libvpx-vp9", "yuv420p", {"deadline": "realtime", "cpu-used": "8", "crf": "10", "b": "0"}),
    "mjpeg": ("mjpeg", "yuvj420p", {"qmin": "2", "qmax": "2"}),
}


def numbered_frame(number: int, height: int = 48, width: int = 72, tint: int = 0) -> np.ndarray:
    """RGB image whose vertical bars are the bits of `number`, white for 1; `tint` (0 to 255) fills the lower
    third's red."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    bar = width // BITS
    for bit in range(BITS):
        if number >> bit & 1:
            image[:, bit * bar : (bit + 1) * bar] = 255
    image[2 * height // 3 :, :] = (tint, 0, 0)
    return image


def shown_numbers(frames_TCHW: Tensor) -> list[int]:
    """The numbers that frames show."""
    height, width = frames_TCHW.shape[2:]
    centres = [int((bit + 0.5) * width / BITS) for bit in range(BITS)]
    rows = frames_TCHW[:, :, height // 4, :].float().mean(dim=1)
    return [sum(int(row[x] > 127) << bit for bit, x in enumerate(centres)) for row in rows]


def clip_bytes(
    frames: int = 40,
    codec: str = "h264",
    fps: int = 10,
    height: int = 48,
    width: int = 72,
    gop: int = 12,
    seconds: Sequence[float] | None = None,
    container: str = "mp4",
    tint: int = 0,
    options: dict[str, str] | None = None,
) -> bytes:
    """An encoded clip of numbered frames, at `fps` or at given times."""
    encoder, pixel_format, defaults = ENCODERS[codec]
    target = io.BytesIO()
    with av.open(target, "w", format=container) as output:
        stream = output.add_stream(encoder, rate=fps, options={**defaults, **(options or {})})
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        stream.codec_context.gop_size = gop
        stream.codec_context.thread_count = 1
        if seconds is not None:
            stream.codec_context.time_base = Fraction(1, 90000)
        for number in range(frames):
            image = numbered_frame(number, height, width, tint)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if seconds is not None:
                frame.time_base = stream.codec_context.time_base
                frame.pts = round(seconds[number] * 90000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return target.getvalue()


def image_bytes(kind: str, height: int = 48, width: int = 72, number: int = 5) -> bytes:
    """An image of a numbered frame; kind: JPEG, PNG or WEBP."""
    target = io.BytesIO()
    Image.fromarray(numbered_frame(number, height, width)).save(target, kind)
    return target.getvalue()


def rotated(mp4: bytes, clockwise: int) -> bytes:
    """The same mp4 with a display matrix that asks players to turn it clockwise by 90, 180 or 270 degrees."""
    a, b = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[clockwise]
    one = 1 << 16
    matrix = struct.pack(">9i", a * one, b * one, 0, -b * one, a * one, 0, 0, 0, 1 << 30)
    place = mp4.index(struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 1 << 30), mp4.index(b"tkhd"))
    return mp4[:place] + matrix + mp4[place + len(matrix) :]


def write_clips(folder: Path, clips: dict[str, bytes]) -> Path:
    """videos/NAME.mp4 and labels/NAME.txt ("caption of NAME") for each clip."""
    for name, content in clips.items():
        video, label = folder / "videos" / f"{name}.mp4", folder / "labels" / f"{name}.txt"
        for path in (video, label):
            path.parent.mkdir(parents=True, exist_ok=True)
        video.write_bytes(content)
        label.write_text(f"caption of {name}\n")
    return folder


def build_shards(folder: Path, clips: dict[str, bytes], **options: Any) -> ShardIndex:
    """Shards of the clips as they are."""
    source = write_clips(folder / "clips", clips)
    build(BuildOptions(source, folder / "shards", **{"codec": "copy", **options}))
    return ShardIndex.open([folder / "shards"])


def damaged(mp4: bytes) -> bytes:
    """The mp4 with its coded pictures overwritten and its headers whole."""
    start = mp4.index(b"mdat") + 4
    length = struct.unpack(">I", mp4[start - 8 : start - 4])[0] - 8
    noise = np.random.default_rng(0).integers(0, 256, length, dtype=np.uint8).tobytes()
    return mp4[:start] + noise + mp4[start + length :]

"""Ways in which a sample of a shard can be broken, or look broken and be good.

Each is a function of (the healthy sample, its codec) that changes the shard's bytes in place and returns the sample as
an index that knows nothing of it would give it.
"""

import io
import os
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np

from tests.data.clip_files import clip_bytes
from vidtron.data.shards.index import Sample

ROOM = 250_000
"""Bytes of padding in each healthy clip, so that others find place in its stead."""


def padded(mp4: bytes) -> bytes:
    """The same mp4 with room behind it."""
    return mp4 + (8 + ROOM).to_bytes(4, "big") + b"free" + bytes(ROOM)


def overwrite(sample: Sample, content: bytes, extension: str = "mp4", at: int = 0) -> None:
    with open(sample.shard, "r+b") as file:
        os.pwrite(file.fileno(), content, sample.members[extension][0] + at)


def instead(sample: Sample, content: bytes) -> Sample:
    """The sample with another file in the place of its clip."""
    offset, size = sample.members["mp4"]
    assert len(content) <= size
    overwrite(sample, content)
    member = tarfile.TarInfo(f"{sample.key}.mp4")
    member.size = len(content)
    overwrite(sample, member.tobuf(), at=-tarfile.BLOCKSIZE)
    return replace(sample, members={**sample.members, "mp4": (offset, len(content))})


def _content(sample: Sample) -> bytes:
    return sample.read("mp4")


def _packets(content: bytes) -> list[tuple[int, int]]:
    """(place, size) of each picture, in the order of decoding."""
    with av.open(io.BytesIO(content)) as container:
        return [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]


def _noise(sample: Sample, pictures: slice) -> Sample:
    rng = np.random.default_rng(0)
    for place, size in _packets(_content(sample))[pictures]:
        overwrite(sample, rng.integers(0, 256, size, dtype=np.uint8).tobytes(), at=place)
    return sample


def _recorded(frames: int, rate: int = 8000) -> bytes:
    """An mp4 with sound alone."""
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as output:
        stream = output.add_stream("aac", rate=rate, layout="mono")
        for number in range(frames):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = rate, 1024 * number
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return target.getvalue()


def _tables_first(mp4: bytes) -> bytes:
    """The file's tables in front of its pictures, so that a cut costs pictures only."""
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file, av.open(io.BytesIO(mp4)) as source:
        with av.open(file.name, "w", format="mp4", options={"movflags": "faststart"}) as output:
            stream = output.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    output.mux(packet)
        return Path(file.name).read_bytes()


def _renamed_codec(sample: Sample) -> Sample:
    content = _content(sample)
    name = next(name for name in (b"avc1", b"vp09") if name in content)
    overwrite(sample, b"zzzz", at=content.rindex(name))
    return sample


def _no_pictures(codec: str) -> bytes:
    content = clip_bytes(1, codec)
    with av.open(io.BytesIO(content)) as source:
        target = io.BytesIO()
        with av.open(target, "w", format="mp4") as output:
            output.add_stream_from_template(source.streams.video[0])
            output.start_encoding()
    return target.getvalue()


def _shorter_tar(sample: Sample) -> Sample:
    """Only for the last sample of a shard."""
    os.truncate(sample.shard, sample.members["mp4"][0] + 100)
    return sample


def _gone(sample: Sample) -> Sample:
    """Only for a sample that has a shard of its own."""
    os.unlink(sample.shard)
    return sample


def _without_caption(sample: Sample) -> Sample:
    return replace(sample, members={"mp4": sample.members["mp4"]})


def _cut_in_picture(mp4: bytes, number: int) -> bytes:
    content = _tables_first(mp4)
    place, size = _packets(content)[number]
    return content[: place + size // 2]


def _bad_caption(sample: Sample) -> Sample:
    overwrite(sample, b"\xff\xfe", "txt")
    return sample


BROKEN: dict[str, Callable[[Sample, str], Sample]] = {
    "truncated": lambda sample, codec: instead(sample, (content := clip_bytes(40, codec))[: len(content) // 2]),
    "truncated pictures": lambda sample, codec: instead(sample, _cut_in_picture(clip_bytes(40, codec), 8)),
    "empty file": lambda sample, codec: instead(sample, b""),
    "sound only": lambda sample, codec: instead(sample, _recorded(20)),
    "random bytes": lambda sample, codec: instead(sample, np.random.default_rng(1).bytes(5000)),
    "zeros": lambda sample, codec: instead(sample, bytes(5000)),
    "another kind of file": lambda sample, codec: instead(sample, b"PK\x03\x04" + bytes(300)),
    "damage in needed pictures": lambda sample, codec: _noise(sample, slice(6, 9)),
    "unknown codec": lambda sample, codec: _renamed_codec(sample),
    "shorter tar": lambda sample, codec: _shorter_tar(sample),
    "shard gone": lambda sample, codec: _gone(sample),
    "no caption": lambda sample, codec: _without_caption(sample),
    "caption no UTF-8": lambda sample, codec: _bad_caption(sample),
    "fewer frames than known": lambda sample, codec: instead(sample, clip_bytes(8, codec)),
    "no frames": lambda sample, codec: instead(sample, _no_pictures(codec)),
    "huge frames": lambda sample, codec: instead(sample, clip_bytes(20, codec, height=1024, width=1536)),
    "larger frames": lambda sample, codec: instead(sample, clip_bytes(40, codec, height=96, width=144)),
}
"""What must be found bad."""

GOOD: dict[str, Callable[[Sample, str], Sample]] = {
    "healthy": lambda sample, codec: sample,
    "damage behind the needed pictures": lambda sample, codec: _noise(sample, slice(30, 34)),
    "cut behind the needed pictures": lambda sample, codec: instead(
        sample, _cut_in_picture(clip_bytes(40, codec), 30)
    ),
}
"""What must be read as if nothing were wrong."""

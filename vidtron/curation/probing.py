"""Step probe: what a file holds."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from vidtron.curation.frames import count_frames
from vidtron.curation.step import Measure, RowStep
from vidtron.curation.table import Row
from vidtron.data.building.probe import probe
from vidtron.data.decoding.pyav import UndecodableError, opened

PROBED: Mapping[str, pa.DataType] = {
    "num_frames": pa.int64(),
    "width": pa.int32(),
    "height": pa.int32(),
    "fps": pa.float64(),
    "duration": pa.float64(),
    "codec": pa.string(),
    "aspect_ratio": pa.float64(),
}


@dataclass(frozen=True)
class Probe(RowStep):
    """size, length, rate and codec of each file"""

    name: ClassVar[str] = "probe"
    adds: ClassVar[Mapping[str, pa.DataType]] = PROBED

    decode: bool = False
    """Decode every frame: finds damaged files, and gives length and rate by time stamps instead of the header."""

    def open(self, worker: int) -> Measure:
        """Nothing to load."""
        return self._measure

    def _measure(self, row: Row) -> list[Row]:
        path = Path(row["path"])
        if self.decode:
            clip = probe(path)
            return [_facts(clip.frames, clip.width, clip.height, clip.fps, clip.duration, clip.codec)]
        with opened(path) as (container, stream):
            first = next(container.decode(stream), None)
            if first is None:
                raise UndecodableError("there are no frames in it")
            width, height = (first.height, first.width) if first.rotation % 180 else (first.width, first.height)
            fps = float(stream.average_rate or 0)
            frames = stream.frames
            codec = stream.codec_context.codec.canonical_name
        frames = frames or count_frames(path)
        return [_facts(frames, width, height, fps, (frames - 1) / fps if fps else 0.0, codec)]


def _facts(frames: int, width: int, height: int, fps: float, duration: float, codec: str) -> Row:
    """`duration` is the time from the first frame to the last, in seconds, as in the index of shards."""
    values = (frames, width, height, fps, duration, codec, height / width)
    return dict(zip(PROBED, values, strict=True))

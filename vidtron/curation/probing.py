"""Step probe: what a file holds."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from vidtron.curation.frames import count_frames
from vidtron.curation.step import Measure, RowStep
from vidtron.curation.table import Row
from vidtron.data.building.clip_source import IMAGE_SUFFIXES
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
        """The function that probes a row's file; it needs nothing loaded."""
        return self._measure

    def _measure(self, row: Row) -> list[Row]:
        path = Path(row["path"])
        if self.decode:
            clip = probe(path)
            return [_facts(path, clip.frames, clip.width, clip.height, clip.fps, clip.codec)]
        with opened(path) as (container, stream):
            first = next(container.decode(stream), None)
            if first is None:
                raise UndecodableError("there are no frames in it")
            width, height = (first.height, first.width) if first.rotation % 180 else (first.width, first.height)
            fps = float(stream.average_rate or 0)
            frames = stream.frames
            codec = stream.codec_context.codec.canonical_name
        frames = frames or count_frames(path)
        return [_facts(path, frames, width, height, fps, codec)]


def _facts(path: Path, frames: int, width: int, height: int, fps: float, codec: str) -> Row:
    """`duration` is in seconds, the last frame shown as long as the others, as in the index of shards; 0 for a
    picture."""
    still = frames == 1 and path.suffix.lower() in IMAGE_SUFFIXES
    duration = 0.0 if still or not fps else frames / fps
    values = (frames, width, height, fps, duration, codec, height / width)
    return dict(zip(PROBED, values, strict=True))

"""Step cut: each scene as a file of its own."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import pyarrow as pa

from vidtron.config.ranges import Range, name_error
from vidtron.curation.probing import PROBED
from vidtron.curation.step import Measure, RowStep
from vidtron.curation.table import ERROR, Row
from vidtron.data.building.transcode import Codec, Edit, transcode


@dataclass(frozen=True)
class Cut(RowStep):
    """one row and one file for each scene"""

    name: ClassVar[str] = "cut"
    needs: ClassVar[tuple[str, ...]] = ("path", "scenes")
    adds: ClassVar[Mapping[str, pa.DataType]] = {
        "path": pa.string(),
        "source": pa.string(),
        "scene": pa.int32(),
        "start": pa.float64(),
        "end": pa.float64(),
    }

    clips: Path
    """Folder for the clips, new or empty."""
    min_seconds: Annotated[float, Range(0, 1_000_000)] = 0.0
    """A shorter scene becomes a row with an error instead of a clip."""
    max_seconds: Annotated[float, Range(0, 1_000_000, above=True)] | None = None
    """A longer scene is cut off here."""
    short_side: Annotated[int, Range(1, 16384)] | None = None
    """Pixels; clips are made smaller to it, never larger. Unset: as they are."""
    fps: Annotated[float, Range(0.001, 1000)] | None = None
    """Frames a second, by time stamps; unset: every frame with its time stamp."""
    codec: Codec = "h264"
    """How clips are stored."""

    def errors(self, resuming: bool) -> list[str]:
        """Also a folder that holds something else."""
        found = super().errors(resuming)
        if resuming or name_error(str(self.clips)) is not None or not self.clips.exists():
            return found
        if not self.clips.is_dir() or any(self.clips.iterdir()):
            found.append(f"cut --clips {self.clips}: is there already; accepted: a new or empty folder")
        return found

    def schema(self, given: pa.Schema) -> pa.Schema:
        """Columns of the output, without those measured of the whole video, which do not hold for its clips."""
        kept = [field for field in given if field.name not in (*PROBED, *self.adds, "scenes", "name", ERROR)]
        return pa.schema([*self.adds.items(), *kept, (ERROR, pa.string())])

    def open(self, worker: int) -> Measure:
        """The function that cuts a row's video; it needs nothing loaded."""
        return lambda row: list(self._clips(row))

    def _clips(self, row: Row) -> Iterator[Row]:
        stem = _stem(row)
        for number, (start, end) in enumerate(row["scenes"]):
            target = (self.clips / f"{stem}_scene-{number}.mp4").absolute()
            clip = {"path": str(target), "source": row["path"], "scene": number, "start": start, "end": end}
            try:
                yield clip | self._cut(Path(row["path"]), target, start, end)
            except (ValueError, OSError) as error:  # one bad scene is no reason to lose the others
                yield {**clip, ERROR: f"cut: {error}"}

    def _cut(self, source: Path, target: Path, start: float, end: float) -> Row:
        seconds = end - start if self.max_seconds is None else min(end - start, self.max_seconds)
        if seconds < self.min_seconds:
            return {ERROR: f"cut: {seconds:.3f} s is shorter than --min-seconds {self.min_seconds:g}"}
        content = transcode(source, Edit(start, seconds, self.short_side, self.short_side, self.fps), self.codec)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_suffix(".tmp")
        temporary.write_bytes(content)
        temporary.replace(target)
        return {"end": start + seconds}


def _stem(row: Row) -> str:
    """Path of a video's clips below --clips, without what is added for each: its `name` where the table has one."""
    if row.get("name"):
        return str(row["name"])
    # Two folders may hold files of the same name.
    path = Path(row["path"])
    return f"{path.stem}-{hashlib.blake2b(str(path.parent).encode(), digest_size=4).hexdigest()}"

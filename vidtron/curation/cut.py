"""Step cut: each scene as a file of its own."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

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
    min_seconds: float = 0.0
    """A shorter scene becomes a row with an error instead of a clip."""
    max_seconds: float | None = None
    """A longer scene is cut off here."""
    short_side: int | None = None
    """Pixels; clips are made smaller to it, never larger. Unset: as they are."""
    fps: float | None = None
    """Frames a second, by time stamps; unset: every frame with its time stamp."""
    codec: Codec = "h264"
    """How clips are stored."""

    def errors(self, resuming: bool) -> list[str]:
        """Also numbers that make no sense, and a folder that holds something else."""
        found = super().errors(resuming)
        for flag, value in (
            ("--short-side", self.short_side),
            ("--fps", self.fps),
            ("--max-seconds", self.max_seconds),
        ):
            if value is not None and not value > 0:
                found.append(f"cut {flag} {value:g}: accepted: more than 0")
        if self.min_seconds < 0:
            found.append(f"cut --min-seconds {self.min_seconds:g}: accepted: 0 or more")
        if not resuming and self.clips.exists() and not (self.clips.is_dir() and not any(self.clips.iterdir())):
            found.append(f"cut --clips {self.clips}: is there already; accepted: a new or empty folder")
        return found

    def schema(self, given: pa.Schema) -> pa.Schema:
        """What was measured of the whole video does not hold for its clips."""
        kept = [field for field in given if field.name not in (*PROBED, *self.adds, "scenes", "name", ERROR)]
        return pa.schema([*self.adds.items(), *kept, (ERROR, pa.string())])

    def open(self, worker: int) -> Measure:
        """Nothing to load."""
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

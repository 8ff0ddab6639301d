"""Finding clips, images and their captions: folders in the usual layouts, or a table."""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidtron.config.foreign_json import parse_json
from vidtron.data.shards.sample import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS

VIDEO_SUFFIXES = frozenset(f".{extension}" for extension in VIDEO_EXTENSIONS)
IMAGE_SUFFIXES = frozenset(f".{extension}" for extension in IMAGE_EXTENSIONS)
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
CAPTION_COLUMNS = ("caption", "text")


class SourceError(ValueError):
    """An input that holds no clips in any known layout; the message says what would be accepted."""


@dataclass(frozen=True)
class SourceClip:
    """One clip, or image, of the input."""

    path: Path
    name: str
    """Path below the input without its suffix, with forward slashes: what its key is made of."""
    caption: str | None
    """None: there is none (the reason is `problem`)."""
    problem: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further columns of a table."""

    @property
    def image(self) -> bool:
        """Whether it is a still picture."""
        return self.path.suffix.lower() in IMAGE_SUFFIXES

    @property
    def media(self) -> str:
        """Extension under which it is stored: images keep theirs."""
        return self.path.suffix.lower()[1:] if self.image else "mp4"


def list_clips(source: Path) -> list[SourceClip]:
    """All clips and images of an input, in a fixed order, those without a caption included.

    Args:
        source: a folder with videos/x.mp4 and labels/x.txt, a folder with x.mp4 and x.txt side by side (both
            searched in depth), or a CSV, JSON lines or Parquet file with the columns path and caption (or text);
            relative paths start at the file's folder.

    Raises:
        SourceError: nothing there, or no clips in it.
    """
    if source.is_dir():
        clips = list(_from_folder(source))
    elif source.is_file() and source.suffix.lower() in TABLE_SUFFIXES:
        clips = list(_from_table(source))
    elif source.exists():
        raise SourceError(f"{source}: accepted: a folder, or a .csv, .tsv, .jsonl or .parquet file")
    else:
        raise SourceError(f"{source}: no such file or folder")
    if not clips:
        raise SourceError(
            f"{source}: no clips in it; accepted: {', '.join(sorted(VIDEO_SUFFIXES | IMAGE_SUFFIXES))} files"
        )
    return clips


def _from_folder(folder: Path) -> Iterator[SourceClip]:
    videos, labels = folder / "videos", folder / "labels"
    if not videos.is_dir():
        videos = labels = folder
    found = [path for path in sorted(videos.rglob("*")) if path.suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES]
    of_video = {path.with_suffix(""): path for path in found if path.suffix.lower() in VIDEO_SUFFIXES}
    for path in found:
        if path.is_file():
            name = path.relative_to(videos).with_suffix("")
            label = labels / name.with_name(name.name + ".txt")
            caption, problem = _read_caption(label)
            video = of_video.get(path.with_suffix(""), path)
            if path.suffix.lower() in IMAGE_SUFFIXES and video != path:
                problem = f"it stands for the video {video.name} beside it"
            yield SourceClip(path, name.as_posix(), caption, problem)


def _read_caption(path: Path) -> tuple[str | None, str]:
    try:
        return _clean(path.read_text(encoding="utf-8"), f"its caption {path} is empty")
    except FileNotFoundError:
        return None, f"it has no caption {path}"
    except (OSError, UnicodeDecodeError) as error:
        return None, f"its caption {path} cannot be read ({error})"


def _clean(caption: str, if_empty: str) -> tuple[str | None, str]:
    """A caption on one line, or None and why."""
    caption = " ".join(caption.split())
    return (caption, "") if caption else (None, if_empty)


def _from_table(table: Path) -> Iterator[SourceClip]:
    for number, row in enumerate(_rows(table), start=1):
        columns = {str(name).strip().lower(): name for name in row if name is not None}
        caption_column = next((columns[name] for name in CAPTION_COLUMNS if name in columns), None)
        if "path" not in columns or caption_column is None:
            raise SourceError(
                f"{table}: row {number} has the columns {', '.join(map(str, row))}; "
                "accepted: path and caption (or text)"
            )
        value = str(row[columns["path"]] or "").strip()
        if not value:
            raise SourceError(f"{table}: row {number} has an empty path")
        relative = Path(value)
        path = relative if relative.is_absolute() else table.parent / relative
        caption, problem = _clean(str(row[caption_column] or ""), f"row {number} of {table} has an empty caption")
        used = (columns["path"], caption_column)
        extra = {str(name): content for name, content in row.items() if name not in used and name is not None}
        name = Path(*relative.parts[1:]) if relative.is_absolute() else relative
        parts = [part for part in name.with_suffix("").parts if part != ".."]
        yield SourceClip(path, "/".join(parts), caption, problem, extra)


def _rows(table: Path) -> Iterator[dict[str, Any]]:
    if table.suffix.lower() == ".parquet":
        yield from _parquet_rows(table)
        return
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            if table.suffix.lower() == ".jsonl":
                yield from _json_rows(table, file)
            else:
                yield from csv.DictReader(file, delimiter="\t" if table.suffix.lower() == ".tsv" else ",")
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise SourceError(f"{table}: cannot be read ({error}); accepted: a table in UTF-8") from error


def _json_rows(table: Path, lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise SourceError(f"{table}: line {number} is no JSON ({error})") from error
        if not isinstance(row, dict):
            raise SourceError(f"{table}: line {number} is no JSON object")
        yield row


def _parquet_rows(table: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(table) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{table}: is no Parquet file ({error})") from error

"""Finding clips, images and their captions: folders in the usual layouts, or a table."""

import csv
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidtron.config.foreign_json import parse_json
from vidtron.data.building.captions import read_words
from vidtron.data.shards.sample import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from vidtron.data.shards.sample_json import caption_at

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
    """Further columns of a table, or entries of a json."""
    content: bytes | None = field(default=None, repr=False)
    """Bytes of a clip that is no file of its own."""
    origin: str = ""
    """What messages call it; empty: its path."""
    key: str | None = None
    """Kept as it is; None: made of the name."""
    flaw: str = ""
    """What is wrong with what came with it, though it can be used."""

    @property
    def image(self) -> bool:
        """Whether it is a still picture."""
        return self.path.suffix.lower() in IMAGE_SUFFIXES

    @property
    def source(self) -> Path | bytes:
        """What decoders open."""
        return self.path if self.content is None else self.content

    def read(self) -> bytes:
        """Its bytes. OSError where the file cannot be read."""
        return self.path.read_bytes() if self.content is None else self.content

    def told(self) -> str:
        """What messages call it."""
        return self.origin or str(self.path)

    @property
    def media(self) -> str:
        """Extension under which it is stored: images keep theirs."""
        return self.path.suffix.lower()[1:] if self.image else "mp4"


def list_clips(source: Path, caption_key: str | None = None) -> list[SourceClip]:
    """All clips and images of an input, in a fixed order, those without a caption included.

    Args:
        source: a folder with videos/x.mp4 and labels/x.txt, a folder with x.mp4 and x.txt side by side (both
            searched in depth), or a CSV, JSON lines or Parquet file with the columns path and caption (or text);
            relative paths start at the file's folder.
        caption_key: the captions of a folder stand there in x.json, which lies where x.txt would (see
            `captions.read_words`), those of a table in that column.

    Raises:
        SourceError: nothing there, or no clips in it.
    """
    if source.is_dir():
        clips = list(_from_folder(source, caption_key))
    elif source.is_file() and source.suffix.lower() in TABLE_SUFFIXES:
        clips = list(_from_table(source, caption_key))
    elif source.exists():
        raise SourceError(f"{source}: accepted: a folder, or a .csv, .tsv, .jsonl or .parquet file")
    else:
        raise SourceError(f"{source}: no such file or folder")
    if not clips:
        raise SourceError(
            f"{source}: no clips in it; accepted: {', '.join(sorted(VIDEO_SUFFIXES | IMAGE_SUFFIXES))} files"
        )
    return clips


def is_media(path: Path) -> bool:
    """Whether a file is called as clips or images are."""
    return path.suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES


def _from_folder(folder: Path, caption_key: str | None) -> Iterator[SourceClip]:
    videos, labels = folder / "videos", folder / "labels"
    if not videos.is_dir():
        videos = labels = folder
    found = [path for path in sorted(videos.rglob("*")) if is_media(path)]
    of_video = {path.with_suffix(""): path for path in found if path.suffix.lower() in VIDEO_SUFFIXES}
    for path in found:
        if path.is_file():
            name = path.relative_to(videos).with_suffix("")
            label = labels / name.with_name(name.name + ".txt")
            extra: dict[str, Any] = {}
            flaw = ""
            if caption_key is None:
                caption, problem = _read_caption(label)
            else:
                caption, problem, extra, flaw = _read_json_caption(label, caption_key)
            video = of_video.get(path.with_suffix(""), path)
            if path.suffix.lower() in IMAGE_SUFFIXES and video != path:
                problem = f"it stands for the video {video.name} beside it"
            yield SourceClip(path, name.as_posix(), caption, problem, extra, flaw=flaw)


def _read_caption(path: Path) -> tuple[str | None, str]:
    try:
        return _clean(path.read_text(encoding="utf-8"), f"its caption {path} is empty")
    except FileNotFoundError:
        return None, f"it has no caption {path}"
    except (OSError, UnicodeDecodeError) as error:
        return None, f"its caption {path} cannot be read ({error})"


def _read_json_caption(label: Path, caption_key: str) -> tuple[str | None, str, dict[str, Any], str]:
    """(caption, why there is none, entries of the json, what is wrong with it) of a clip whose .txt would be there."""
    about = label.with_name(label.name.removesuffix(".txt") + ".json")
    try:
        text, content = (path.read_bytes() if path.is_file() else None for path in (label, about))
        said = read_words(text, content, caption_key)
    except (OSError, ValueError) as error:
        return None, f"{about}: {error}", {}, ""
    return " ".join(said.caption.split()), "", said.entries, said.flaw


def _clean(caption: str, if_empty: str) -> tuple[str | None, str]:
    """A caption on one line, or None and why."""
    caption = " ".join(caption.split())
    return (caption, "") if caption else (None, if_empty)


def _from_table(table: Path, caption_key: str | None) -> Iterator[SourceClip]:
    for number, row in enumerate(_rows(table), start=1):
        columns = {str(name).strip().lower(): name for name in row if name is not None}
        caption_column = next((columns[name] for name in CAPTION_COLUMNS if name in columns), None)
        if caption_key is not None:
            caption_column = next((name for name in (caption_key, caption_key.split(".")[0]) if name in row), None)
        if "path" not in columns or caption_column is None:
            wanted = "caption (or text)" if caption_key is None else f"{caption_key} (--caption-key)"
            raise SourceError(
                f"{table}: row {number} has the columns {', '.join(map(str, row))}; accepted: path and {wanted}"
            )
        value = str(row[columns["path"]] or "").strip()
        if not value:
            raise SourceError(f"{table}: row {number} has an empty path")
        relative = Path(value)
        path = relative if relative.is_absolute() else table.parent / relative
        words = row[caption_column]
        if caption_key is not None:
            words = ""
            with suppress(ValueError):
                words = caption_at(row, caption_key)
        caption, problem = _clean(str(words or ""), f"row {number} of {table} has an empty caption")
        used = (columns["path"], caption_column if caption_key in (None, caption_column) else None)
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

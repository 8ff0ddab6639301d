"""One shard of a build: its clips made as they are stored, and written with captions and facts as a webdataset tar."""

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from vidtron.data.building.build_state import Part, Progress, Skipped
from vidtron.data.building.pieces import Piece
from vidtron.data.building.probe import probe_media
from vidtron.data.building.transcode import remux, transcode
from vidtron.data.decoding.pyav import UndecodableError, opened
from vidtron.data.shards.sample import CAPTION_EXTENSION, ClipFacts, IndexRow

StoredCodec = Literal["copy", "vp9", "h264", "mjpeg"]


@dataclass(frozen=True)
class Facts:
    """Finds what the index says of a sample besides its clip."""

    count_tokens: Callable[[str], int | None]
    scores_of: Callable[[dict[str, Any]], dict[str, float | None]]
    """Scores in what came with a clip; ValueError where one that is asked for is no number."""


def make_piece(piece: Piece, codec: StoredCodec) -> tuple[bytes, ClipFacts]:
    """What is stored of one piece, an mp4 or the image as it is, and its facts; UndecodableError where that is
    impossible."""
    if piece.problem:
        raise UndecodableError(piece.problem)
    clip = piece.clip
    try:
        if not clip.image and (piece.edit.changes() or (codec != "copy" and _codec_in_mp4(clip.source) != codec)):
            assert codec != "copy"
            content = transcode(clip.source, piece.edit, codec)
        else:
            content = clip.read()
            if not clip.image and _codec_in_mp4(content) is None:
                content = remux(content)
    except OSError as error:
        raise UndecodableError(str(error)) from error
    return content, probe_media(content, clip.media)


def _codec_in_mp4(source: Path | bytes) -> str | None:
    """Codec of an mp4's video; None for any other container."""
    with opened(source) as (container, stream):
        return str(stream.codec_context.codec.canonical_name) if "mp4" in container.format.name.split(",") else None


def write_shard(
    output: Path,
    name: str,
    made: Iterator[tuple[Piece, Future[tuple[bytes, ClipFacts]]]],
    facts: Facts,
    progress: Progress,
) -> tuple[Part, int]:
    """Write one shard: (its record, how many results there were). What is not finished is removed.

    Args:
        output: the folder of shards.
        name: of the shard.
        made: the pieces of the shard with what `make_piece` gave, or raised.
        facts: finds the rest of what the index says.
        progress: told of each piece.
    """
    temporary = output / f".{name}.tmp"
    rows: list[IndexRow] = []
    skipped: list[Skipped] = []
    flawed: list[Skipped] = []
    try:
        with temporary.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
                for piece, future in made:
                    try:
                        content, clip = future.result()
                        scores = facts.scores_of(piece.clip.extra)
                    except (UndecodableError, ValueError) as error:
                        skipped.append(Skipped(piece.key, piece.clip.told(), str(error)))
                        progress.piece(skipped[-1])
                        continue
                    row = _add_sample(tar, name, piece, content, clip, facts)
                    rows.append(replace(row, scores=scores))
                    if piece.clip.flaw:
                        flawed.append(Skipped(piece.key, piece.clip.told(), piece.clip.flaw))
                        progress.flawed(flawed[-1])
                    progress.piece(None)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    size = temporary.stat().st_size if rows else 0
    if rows:
        temporary.replace(output / name)
    else:
        temporary.unlink()
    return Part(name, size, skipped, rows, flawed), len(rows) + len(skipped)


def _add_sample(
    tar: tarfile.TarFile, shard: str, piece: Piece, content: bytes, clip: ClipFacts, facts: Facts
) -> IndexRow:
    about = {"source": piece.clip.name, "start": piece.edit.start, **piece.clip.extra, **clip.as_json()}
    if clip.times is None:
        about.pop("times", None)  # of the clip as it was
    caption = piece.clip.caption or ""
    members = {}
    for extension, data in (
        (piece.clip.media, content),
        (CAPTION_EXTENSION, caption.encode()),
        ("json", json.dumps(about, ensure_ascii=False, default=str).encode()),
    ):
        info = tarfile.TarInfo(f"{piece.key}.{extension}")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
        padded = (len(data) + tarfile.BLOCKSIZE - 1) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
        members[extension] = (tar.offset - padded, len(data))
    return IndexRow(
        shard,
        piece.key,
        piece.clip.media,
        members,
        clip,
        len(caption),
        facts.count_tokens(caption),
    )


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"shard-{number:06d}.tar"

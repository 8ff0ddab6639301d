"""Writing shards: webdataset tars and their index, so that a build that was killed goes on where it stopped.

A shard holds a fixed run of the list of pieces, so which pieces it holds does not depend on which of them can be
read. While a build is under way its state lies in `.build/`: its arguments, and for every finished shard the index
lines of its samples and the clips that were skipped.
"""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vidtron.config.storage import writing
from vidtron.data.building.build_state import (
    BuildError,
    BuildState,
    Part,
    Progress,
    Skipped,
    made_in_order,
    read_skipped,
    write_atomically,
)
from vidtron.data.building.captions import token_counter
from vidtron.data.building.clip_source import SourceClip, list_clips
from vidtron.data.building.pieces import Piece, list_pieces
from vidtron.data.building.probe import probe_media
from vidtron.data.building.scores import score_names, score_of
from vidtron.data.building.transcode import Edit, remux, transcode
from vidtron.data.decoding.pyav import UndecodableError, opened
from vidtron.data.shards.index_file import missing, read_header
from vidtron.data.shards.index_schema import INDEX_NAME, OLD_INDEX_NAME
from vidtron.data.shards.sample import CAPTION_EXTENSION, ClipFacts, IndexRow

STATE_FOLDER = ".build"
StoredCodec = Literal["copy", "vp9", "h264", "mjpeg"]


@dataclass(frozen=True)
class BuildOptions:
    """What is to be built."""

    source: Path
    output: Path
    codec: StoredCodec
    edit: Edit = field(default_factory=Edit)
    cut_seconds: float | None = None
    samples_per_shard: int = 256
    workers: int = 2
    tokenizer: Path | None = None
    """Local folder of a transformers tokenizer, which counts the tokens of captions."""
    scores: tuple[str, ...] = ()
    """Columns of a table that are scores, besides those whose names start with "score"."""


@dataclass(frozen=True)
class BuildResult:
    """What a build has written."""

    samples: int
    shards: int
    skipped: list[Skipped]
    left_over_seconds: float
    already_complete: bool = False


def build(options: BuildOptions, progress: Progress | None = None) -> BuildResult:
    """Build all shards and the index, or finish what an earlier call began.

    Raises:
        BuildError: the arguments contradict each other, or those of an earlier build in the same folder.
        SourceError: the input holds no clips.
        StorageError: shards or index cannot be written; finished shards stay.
    """
    progress = progress or Progress()
    _check(options)
    clips = list_clips(options.source)
    facts = _CaptionFacts.of(clips, options)
    pieces, left_over = list_pieces(clips, options.edit, options.cut_seconds)
    arguments = _arguments(options, pieces)
    state = BuildState(options.output, STATE_FOLDER)
    if _is_complete(state, arguments):
        header = read_header(options.output)
        shards = len(header["shards"])
        return BuildResult(header["samples"], shards, read_skipped(options.output), left_over, already_complete=True)
    runs = [pieces[i : i + options.samples_per_shard] for i in range(0, len(pieces), options.samples_per_shard)]
    done = {number for number in range(len(runs)) if state.read(number) is not None}
    progress.begin(len(pieces), sum(len(runs[number]) for number in done))
    due = [piece for number, run in enumerate(runs) if number not in done for piece in run]
    with (
        writing(options.output, "make room there; the same command goes on from the last finished shard"),
        made_in_order(lambda piece: _make(piece, options.codec), due, options.workers) as made,
    ):
        for number, run in enumerate(runs):
            if number not in done:
                part = _write_shard(options.output, shard_name(number), run, made, facts, progress)
                state.write(number, part)
                progress.shard(part.shard, len(part.rows))
        header, skipped = state.finish(len(runs), facts.scores, {"build": arguments})
    return BuildResult(header["samples"], len(header["shards"]), skipped, left_over)


@dataclass(frozen=True)
class _CaptionFacts:
    """Finds what the index says of a sample besides its clip."""

    count_tokens: Callable[[str], int | None]
    scores: list[str]

    @classmethod
    def of(cls, clips: list[SourceClip], options: BuildOptions) -> "_CaptionFacts":
        try:
            scores = score_names((clip.extra for clip in clips), options.scores)
            return cls(token_counter(options.tokenizer), scores)
        except ValueError as error:
            raise BuildError(str(error)) from error


def _check(options: BuildOptions) -> None:
    edit = options.edit
    for flag, value in (
        ("--samples-per-shard", options.samples_per_shard),
        ("--workers", options.workers),
        ("--height", edit.height),
        ("--width", edit.width),
    ):
        if value is not None and value < 1:
            raise BuildError(f"{flag} {value}: accepted: 1 or more")
    for flag, number in (("--cut-seconds", options.cut_seconds), ("--max-seconds", edit.seconds), ("--fps", edit.fps)):
        if number is not None and not number > 0:
            raise BuildError(f"{flag} {number:g}: accepted: more than 0")
    if edit.start < 0:
        raise BuildError(f"--start {edit.start:g}: accepted: 0 or more")
    if options.codec == "copy" and (edit.changes() or options.cut_seconds is not None):
        raise BuildError(
            "--codec copy changes nothing; accepted with trimming, cutting, rescaling or --fps: vp9, h264, mjpeg"
        )


def _arguments(options: BuildOptions, pieces: list[Piece]) -> dict[str, Any]:
    """What must be the same when a build is continued."""
    digest = hashlib.blake2b(digest_size=16)
    for piece in pieces:
        path = piece.clip.path
        size = path.stat().st_size if path.is_file() else None
        digest.update(repr((piece.key, piece.clip.name, piece.clip.caption, size)).encode())
    edit = options.edit
    return {
        "--codec": options.codec,
        "--start": edit.start,
        "--max-seconds": edit.seconds,
        "--cut-seconds": options.cut_seconds,
        "--height": edit.height,
        "--width": edit.width,
        "--fps": edit.fps,
        "--samples-per-shard": options.samples_per_shard,
        "--tokenizer": options.tokenizer and str(options.tokenizer),
        "--scores": list(options.scores) or None,
        "clips of --input": f"{len(pieces)} samples, {digest.hexdigest()}",
    }


def _is_complete(state: BuildState, arguments: dict[str, Any]) -> bool:
    """Whether the folder holds this build, finished. Begins a new build in an empty folder; refuses another
    build's."""
    output = state.output
    begun = state.folder / "arguments.json"
    finished = (output / INDEX_NAME).is_file() and not begun.is_file()
    if finished:
        earlier = read_header(output).get("build", {})
    elif begun.is_file():
        earlier = json.loads(begun.read_text(encoding="utf-8"))
    else:
        if (output / OLD_INDEX_NAME).is_file():
            raise BuildError(f"--output {missing(output)}")
        if output.is_dir() and any(path.name != STATE_FOLDER for path in output.iterdir()):
            raise BuildError(f"--output {output}: holds other files; accepted: a new or empty folder")
        state.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(begun, json.dumps(arguments, indent=1))
        return False
    changed = [name for name in arguments if arguments[name] != earlier.get(name)]
    if changed:
        told = "; ".join(f"{name} was {earlier.get(name)}, is {arguments[name]}" for name in changed)
        raise BuildError(
            f"--output {output}: holds a build with other arguments ({told}); accepted: the same, or another folder"
        )
    return finished


def _make(piece: Piece, codec: StoredCodec) -> tuple[bytes, ClipFacts]:
    """What is stored of one piece, an mp4 or the image as it is, and its facts; UndecodableError where that is
    impossible."""
    if piece.problem:
        raise UndecodableError(piece.problem)
    clip = piece.clip
    try:
        if not clip.image and (piece.edit.changes() or (codec != "copy" and _codec_in_mp4(clip.path) != codec)):
            assert codec != "copy"
            content = transcode(clip.path, piece.edit, codec)
        else:
            content = clip.path.read_bytes()
            if not clip.image and _codec_in_mp4(content) is None:
                content = remux(content)
    except OSError as error:
        raise UndecodableError(str(error)) from error
    return content, probe_media(content, clip.media)


def _codec_in_mp4(source: Path | bytes) -> str | None:
    """Codec of an mp4's video; None for any other container."""
    with opened(source) as (container, stream):
        return str(stream.codec_context.codec.canonical_name) if "mp4" in container.format.name.split(",") else None


def _write_shard(
    output: Path,
    name: str,
    run: list[Piece],
    made: Iterator[tuple[Piece, Future[tuple[bytes, ClipFacts]]]],
    facts: _CaptionFacts,
    progress: Progress,
) -> Part:
    """Write one shard from the next results."""
    temporary = output / f".{name}.tmp"
    rows: list[IndexRow] = []
    skipped: list[Skipped] = []
    try:
        with temporary.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
                for _ in run:
                    piece, future = next(made)
                    try:
                        content, clip = future.result()
                    except UndecodableError as error:
                        skipped.append(Skipped(piece.key, str(piece.clip.path), str(error)))
                        progress.piece(skipped[-1])
                        continue
                    rows.append(_add_sample(tar, name, piece, content, clip, facts))
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
    return Part(name, size, skipped, rows)


def _add_sample(
    tar: tarfile.TarFile, shard: str, piece: Piece, content: bytes, clip: ClipFacts, facts: _CaptionFacts
) -> IndexRow:
    about = {**clip.as_json(), "source": piece.clip.name, "start": piece.edit.start, **piece.clip.extra}
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
        {name: score_of(piece.clip.extra.get(name)) for name in facts.scores},
    )


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"shard-{number:06d}.tar"

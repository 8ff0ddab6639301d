"""Writing shards: webdataset tars and their index, so that a build that was killed goes on where it stopped.

A shard holds a fixed run of the list of pieces, so which pieces it holds does not depend on which of them can be
read. While a build is under way its state lies in `.build/`: its arguments, and for every finished shard the index
lines of its samples and the clips that were skipped.
"""

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from vidtron.data.clip_source import list_clips
from vidtron.data.index import INDEX_NAME, ClipFacts, Sample, read_header, sample_line, write_index
from vidtron.data.pieces import Piece, list_pieces
from vidtron.data.probe import probe
from vidtron.data.pyav import UndecodableError, opened
from vidtron.data.transcode import Edit, remux, transcode

STATE_FOLDER = ".build"
SKIPPED_NAME = "skipped.jsonl"
StoredCodec = Literal["copy", "vp9", "h264", "mjpeg"]


class BuildError(ValueError):
    """Arguments a build cannot work with; the message names what would be accepted."""


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


@dataclass(frozen=True)
class Skipped:
    """A clip that was left out."""

    key: str
    path: str
    reason: str


@dataclass(frozen=True)
class BuildResult:
    """What a build has written."""

    samples: int
    shards: int
    skipped: list[Skipped]
    left_over_seconds: float
    already_complete: bool = False


class Progress:
    """What a build tells while it works; the default says nothing."""

    def begin(self, pieces: int, done: int) -> None:
        """There are so many pieces, so many of which an earlier run has done."""

    def piece(self, skipped: Skipped | None) -> None:
        """One more piece is done, or had to be skipped."""

    def shard(self, name: str, samples: int) -> None:
        """A shard is finished."""


def build(options: BuildOptions, progress: Progress | None = None) -> BuildResult:
    """Build all shards and the index, or finish what an earlier call began.

    Raises:
        BuildError: the arguments contradict each other, or those of an earlier build in the same folder.
        SourceError: the input holds no clips.
    """
    progress = progress or Progress()
    _check(options)
    pieces, left_over = list_pieces(list_clips(options.source), options.edit, options.cut_seconds)
    arguments = _arguments(options, pieces)
    state = options.output / STATE_FOLDER
    if _is_complete(options.output, state, arguments):
        skipped = _read_skipped(options.output)
        header = read_header(options.output)
        return BuildResult(header["samples"], len(header["shards"]), skipped, left_over, already_complete=True)
    runs = [pieces[i : i + options.samples_per_shard] for i in range(0, len(pieces), options.samples_per_shard)]
    parts = [_read_part(options.output, state, number) for number in range(len(runs))]
    progress.begin(len(pieces), sum(len(run) for run, part in zip(runs, parts, strict=True) if part is not None))
    due = [piece for run, part in zip(runs, parts, strict=True) if part is None for piece in run]
    with ThreadPoolExecutor(options.workers, thread_name_prefix="clip") as pool:
        made = _in_order(pool, lambda piece: _make(piece, options.codec), due, ahead=2 * options.workers)
        try:
            for number, run in enumerate(runs):
                if parts[number] is None:
                    parts[number] = _write_shard(options.output, number, run, made, progress)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return _finish(options.output, [part for part in parts if part is not None], arguments, left_over)


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
        "clips of --input": f"{len(pieces)} samples, {digest.hexdigest()}",
    }


def _is_complete(output: Path, state: Path, arguments: dict[str, Any]) -> bool:
    """Whether the folder holds this build, finished. Begins a new build in an empty folder; refuses another
    build's."""
    begun = state / "arguments.json"
    finished = (output / INDEX_NAME).is_file() and not begun.is_file()
    if finished:
        earlier = read_header(output).get("build", {})
    elif begun.is_file():
        earlier = json.loads(begun.read_text(encoding="utf-8"))
    else:
        if output.is_dir() and any(path.name != STATE_FOLDER for path in output.iterdir()):
            raise BuildError(f"--output {output}: holds other files; accepted: a new or empty folder")
        state.mkdir(parents=True, exist_ok=True)
        _write_atomically(begun, json.dumps(arguments, indent=1))
        return False
    changed = [name for name in arguments if arguments[name] != earlier.get(name)]
    if changed:
        told = "; ".join(f"{name} was {earlier.get(name)}, is {arguments[name]}" for name in changed)
        raise BuildError(
            f"--output {output}: holds a build with other arguments ({told}); accepted: the same, or another folder"
        )
    return finished


def _make(piece: Piece, codec: StoredCodec) -> tuple[bytes, ClipFacts]:
    """mp4 and facts of one piece; UndecodableError where that is impossible."""
    if piece.problem:
        raise UndecodableError(piece.problem)
    try:
        if piece.edit.changes() or (codec != "copy" and _codec_in_mp4(piece.clip.path) != codec):
            assert codec != "copy"
            content = transcode(piece.clip.path, piece.edit, codec)
        else:
            content = piece.clip.path.read_bytes()
            if _codec_in_mp4(content) is None:
                content = remux(content)
    except OSError as error:
        raise UndecodableError(str(error)) from error
    return content, probe(content)


def _codec_in_mp4(source: Path | bytes) -> str | None:
    """Codec of an mp4's video; None for any other container."""
    with opened(source) as (container, stream):
        return str(stream.codec_context.codec.canonical_name) if "mp4" in container.format.name.split(",") else None


def _in_order(
    pool: ThreadPoolExecutor, make: Callable[[Piece], Any], pieces: list[Piece], ahead: int
) -> Iterator[tuple[Piece, Future[Any]]]:
    """Each piece with its result, in order, while up to `ahead` are being made."""
    waiting: deque[tuple[Piece, Future[Any]]] = deque()
    for piece in pieces:
        waiting.append((piece, pool.submit(make, piece)))
        if len(waiting) >= ahead:
            yield waiting.popleft()
    yield from waiting


def _write_shard(
    output: Path, number: int, run: list[Piece], made: Iterator[tuple[Piece, Future[Any]]], progress: Progress
) -> dict[str, Any]:
    """Write one shard from the next results, and the record that it is finished."""
    name = shard_name(number)
    temporary = output / f".{name}.tmp"
    lines: list[str] = []
    skipped: list[Skipped] = []
    with temporary.open("wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
            for _ in run:
                piece, future = next(made)
                try:
                    content, facts = future.result()
                except UndecodableError as error:
                    skipped.append(Skipped(piece.key, str(piece.clip.path), str(error)))
                    progress.piece(skipped[-1])
                    continue
                lines.append(sample_line(name, _add_sample(tar, output / name, piece, content, facts)))
                progress.piece(None)
        file.flush()
        os.fsync(file.fileno())
    size = temporary.stat().st_size if lines else 0
    if lines:
        temporary.replace(output / name)
    else:
        temporary.unlink()
    part = {"shard": name, "size": size, "skipped": [asdict(one) for one in skipped], "lines": lines}
    _write_atomically(_part_path(output / STATE_FOLDER, number), json.dumps(part, ensure_ascii=False))
    progress.shard(name, len(lines))
    return part


def _add_sample(tar: tarfile.TarFile, shard: Path, piece: Piece, content: bytes, facts: ClipFacts) -> Sample:
    about = {**facts.as_json(), "source": piece.clip.name, "start": piece.edit.start, **piece.clip.extra}
    caption = piece.clip.caption or ""
    members = {}
    for extension, data in (
        ("mp4", content),
        ("txt", caption.encode()),
        ("json", json.dumps(about, ensure_ascii=False).encode()),
    ):
        info = tarfile.TarInfo(f"{piece.key}.{extension}")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
        padded = (len(data) + tarfile.BLOCKSIZE - 1) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
        members[extension] = (tar.offset - padded, len(data))
    return Sample(piece.key, shard, members, facts, len(caption))


def _finish(output: Path, parts: list[dict[str, Any]], arguments: dict[str, Any], left_over: float) -> BuildResult:
    skipped = [Skipped(**one) for part in parts for one in part["skipped"]]
    shards = {part["shard"]: part["size"] for part in parts if part["lines"]}
    lines = [line for part in parts for line in part["lines"]]
    if not lines:
        raise BuildError(
            f"none of the {len(skipped)} clips can be used; the first: {skipped[0].path}: {skipped[0].reason}"
        )
    if skipped:
        text = "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in skipped)
        _write_atomically(output / SKIPPED_NAME, text)
    write_index(output, shards, lines, {"skipped": len(skipped), "build": arguments})
    shutil.rmtree(output / STATE_FOLDER)
    return BuildResult(len(lines), len(shards), skipped, left_over)


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"shard-{number:06d}.tar"


def _part_path(state: Path, number: int) -> Path:
    return state / f"{shard_name(number)}.json"


def _read_part(output: Path, state: Path, number: int) -> dict[str, Any] | None:
    """The record of a finished shard, or None."""
    path = _part_path(state, number)
    if not path.is_file():
        return None
    part = json.loads(path.read_text(encoding="utf-8"))
    shard = output / part["shard"]
    whole = not part["lines"] or (shard.is_file() and shard.stat().st_size == part["size"])
    return part if whole else None


def _read_skipped(output: Path) -> list[Skipped]:
    path = output / SKIPPED_NAME
    if not path.is_file():
        return []
    return [Skipped(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)

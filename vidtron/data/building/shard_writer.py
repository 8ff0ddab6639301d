"""Writing shards: webdataset tars and their index, so that a build that was killed goes on where it stopped.

A shard holds a fixed run of the list of pieces, so which pieces it holds does not depend on which of them can be
read. While a build is under way its state lies in `.build/`: its arguments, and for every finished shard the index
lines of its samples and the clips that were skipped.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from vidtron.config.storage import writing
from vidtron.data.building.build_state import (
    FLAWED_NAME,
    SKIPPED_NAME,
    BuildError,
    BuildState,
    Progress,
    Skipped,
    made_in_order,
    read_named,
    write_atomically,
)
from vidtron.data.building.captions import token_counter
from vidtron.data.building.clip_source import list_clips
from vidtron.data.building.pieces import Cutter, Piece, list_pieces
from vidtron.data.building.scores import score_names, score_of, scores_among
from vidtron.data.building.shard_file import Facts, StoredCodec, make_piece, shard_name, write_shard
from vidtron.data.building.tar_clips import list_tar_clips
from vidtron.data.building.tar_sources import TarSource, tars_of_folder, tars_or_clips
from vidtron.data.building.transcode import Edit
from vidtron.data.shards.index_file import missing, read_header
from vidtron.data.shards.index_schema import INDEX_NAME, OLD_INDEX_NAME

STATE_FOLDER = ".build"


@dataclass(frozen=True)
class BuildOptions:
    """What is to be built."""

    source: Path | tuple[str, ...]
    """A folder of clips, a table, or a folder of tars; or what a command line names: one of these, or tars (see
    `tar_sources.expand`). Commands are run for the latter only."""
    output: Path
    codec: StoredCodec
    edit: Edit = field(default_factory=Edit)
    cut_seconds: float | None = None
    samples_per_shard: int = 256
    workers: int = 2
    tokenizer: Path | None = None
    """Local folder of a transformers tokenizer, which counts the tokens of captions."""
    scores: tuple[str, ...] = ()
    """Columns of a table, or entries of json members, that are scores, besides those whose names start with
    "score"."""
    caption_key: str | None = None
    """Where the captions stand in json files or members (see `captions.read_words`), or which column of a table."""


@dataclass(frozen=True)
class BuildResult:
    """What a build has written."""

    samples: int
    shards: int
    skipped: list[Skipped]
    left_over_seconds: float
    already_complete: bool = False
    flawed: list[Skipped] = field(default_factory=list)
    """Samples that were taken though their json cannot be used."""


def build(options: BuildOptions, progress: Progress | None = None) -> BuildResult:
    """Build all shards and the index, or finish what an earlier call began.

    Raises:
        BuildError: the arguments contradict each other, or those of an earlier build in the same folder; or tars that
            are named are not there.
        SourceError: the input holds no clips.
        StorageError: shards or index cannot be written; finished shards stay.
    """
    progress = progress or Progress()
    _check(options)
    try:
        count_tokens = token_counter(options.tokenizer)
    except ValueError as error:
        raise BuildError(str(error)) from error
    source = options.source
    tars = tars_of_folder(source) if isinstance(source, Path) else tars_or_clips(source)
    if tars is not None:
        return TarBuild(options, tars, count_tokens, progress).run()
    clips = list_clips(source if isinstance(source, Path) else Path(source[0]), options.caption_key)
    try:
        names = score_names((clip.extra for clip in clips), options.scores)
    except ValueError as error:
        raise BuildError(str(error)) from error
    facts = Facts(count_tokens, lambda extra: {name: score_of(extra.get(name)) for name in names})
    pieces, left_over = list_pieces(clips, options.edit, options.cut_seconds)
    arguments = _arguments(options, "clips of --input", f"{len(pieces)} samples, {_digest(pieces)}")
    state = BuildState(options.output, STATE_FOLDER)
    if _is_complete(state, arguments):
        return _complete(options.output, left_over)
    size = options.samples_per_shard
    runs = [pieces[i : i + size] for i in range(0, len(pieces), size)]
    done = {number for number in range(len(runs)) if state.read(number) is not None}
    progress.begin(len(pieces), sum(len(runs[number]) for number in done))
    due = [piece for number, run in enumerate(runs) if number not in done for piece in run]
    with (
        _writing(options.output),
        made_in_order(lambda piece: make_piece(piece, options.codec), due, options.workers) as made,
    ):
        for number, run in enumerate(runs):
            if number not in done:
                part, _ = write_shard(options.output, shard_name(number), islice(made, len(run)), facts, progress)
                state.write(number, part)
                progress.shard(part.shard, len(part.rows))
        header, skipped, flawed = state.finish(len(runs), names, {"build": arguments})
    return BuildResult(header["samples"], len(header["shards"]), skipped, left_over, flawed=flawed)


class TarBuild:
    """A build from tars, which are read once, from their beginning to their end: what is in them is not known before.

    Going on with one, it reads again what the finished shards hold, and makes nothing of it.
    """

    def __init__(
        self,
        options: BuildOptions,
        tars: Sequence[TarSource],
        count_tokens: Callable[[str], int | None],
        progress: Progress,
    ) -> None:
        self.options = options
        self.tars = tars
        self.facts = Facts(count_tokens, lambda extra: scores_among(extra, options.scores))
        self.progress = progress
        self.cutter = Cutter(options.edit, options.cut_seconds)
        self.state = BuildState(options.output, STATE_FOLDER)

    def run(self) -> BuildResult:
        """See `build`."""
        options, state = self.options, self.state
        sizes = [tar.path.stat().st_size if tar.path else None for tar in self.tars]
        names = [tar.name for tar in self.tars]
        digest = hashlib.blake2b(repr([names, sizes]).encode(), digest_size=16).hexdigest()
        arguments = _arguments(options, "tars of --input", f"{len(names)} tars, {digest}")
        if _is_complete(state, arguments):
            return _complete(options.output, 0.0)
        pieces = self._pieces()
        number = self._pass_over_finished(pieces)
        with (
            _writing(options.output),
            made_in_order(lambda piece: make_piece(piece, options.codec), pieces, options.workers) as made,
        ):
            while True:
                run = islice(made, options.samples_per_shard)
                part, count = write_shard(options.output, shard_name(number), run, self.facts, self.progress)
                if count:
                    state.write(number, part)
                    self.progress.shard(part.shard, len(part.rows))
                    number += 1
                if count < options.samples_per_shard:
                    break
            header, skipped, flawed = state.finish(number, self._scores(number), {"build": arguments})
        left_over = self.cutter.left_over
        return BuildResult(header["samples"], len(header["shards"]), skipped, left_over, flawed=flawed)

    def _pieces(self) -> Iterator[Piece]:
        for clip in list_tar_clips(self.tars, self.options.caption_key):
            yield from self.cutter.pieces(clip)

    def _pass_over_finished(self, pieces: Iterator[Piece]) -> int:
        """Number of the first shard that is not finished; `pieces` goes on behind those before it."""
        number = 0
        while (part := self.state.read(number)) is not None:
            again = sorted(piece.key for piece in islice(pieces, self.options.samples_per_shard))
            if again != sorted([row.key for row in part.rows] + [one.key for one in part.skipped]):
                raise BuildError(
                    f"--output {self.options.output}: holds a build of other samples than --input gives now; "
                    "accepted: the same, or another folder"
                )
            number += 1
        self.progress.begin(0, number * self.options.samples_per_shard)
        return number

    def _scores(self, parts: int) -> list[str]:
        """Names of all scores that samples have."""
        rows = (row for part in self.state.parts(parts) for row in part.rows)
        found = dict.fromkeys(name for row in rows for name in row.scores)
        absent = [name for name in self.options.scores if name not in found]
        if absent:
            accepted = "accepted: names of numbers in the json members"
            raise BuildError(f"--scores {' '.join(absent)}: no sample has it; {accepted}")
        return list(found)


def _writing(output: Path) -> AbstractContextManager[None]:
    """Around what writes shards, records of them and the index."""
    return writing(output, "make room there; the same command goes on from the last finished shard")


def _complete(output: Path, left_over: float) -> BuildResult:
    """What a build finds that is finished."""
    header = read_header(output)
    skipped, flawed = (read_named(output, name) for name in (SKIPPED_NAME, FLAWED_NAME))
    return BuildResult(header["samples"], len(header["shards"]), skipped, left_over, True, flawed)


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


def _digest(pieces: Sequence[Piece]) -> str:
    """Hash of what is to be built."""
    digest = hashlib.blake2b(digest_size=16)
    for piece in pieces:
        path = piece.clip.path
        size = path.stat().st_size if path.is_file() else None
        digest.update(repr((piece.key, piece.clip.name, piece.clip.caption, size)).encode())
    return digest.hexdigest()


def _arguments(options: BuildOptions, name: str, told: str) -> dict[str, Any]:
    """What must be the same when a build is continued; `told` of its input, under a name."""
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
        "--caption-key": options.caption_key,
        name: told,
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

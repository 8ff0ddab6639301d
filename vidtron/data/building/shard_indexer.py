"""Indexing webdataset tars that are there already, whoever made them."""

import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vidtron.config.foreign_json import parse_json
from vidtron.config.storage import writing
from vidtron.data.building.build_state import BuildError, BuildState, Part, Progress, Skipped, made_in_order
from vidtron.data.building.captions import token_counter
from vidtron.data.building.probe import probe_media
from vidtron.data.building.scores import PREFIX, score_of
from vidtron.data.building.shard_writer import STATE_FOLDER, BuildResult
from vidtron.data.decoding.pyav import UndecodableError
from vidtron.data.shards.sample import CAPTION_EXTENSION, IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, IndexRow
from vidtron.data.shards.shard_reader import read_at

_STATE_FOLDER = ".index"
# As webdataset does: a key ends at the first full stop after the last slash.
_MEMBER = re.compile(r"^((?:.*/)?[^./][^./]*)\.([^/]+)$")


@dataclass(frozen=True)
class IndexOptions:
    """What is to be indexed."""

    folder: Path
    workers: int = 2
    tokenizer: Path | None = None
    """Local folder of a transformers tokenizer, which counts the tokens of captions."""
    scores: tuple[str, ...] = ()
    """Entries of the json members that are scores, besides those whose names start with "score"."""


@dataclass
class _Found:
    """A sample as its shard's members name it."""

    shard: Path
    key: str
    members: dict[str, tuple[int, int]] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class _End:
    """The end of a shard."""

    shard: Path
    problem: str


def index_shards(options: IndexOptions, progress: Progress | None = None) -> BuildResult:
    """Write the index of a folder of tars; every clip is decoded once. An older index is replaced at the end.

    What cannot be used is left out and named in skipped.jsonl: samples without video or caption, captions that are
    no UTF-8, clips that cannot be decoded, keys that were there before. Of a tar that ends early the whole samples
    are kept.

    Raises:
        BuildError: the folder holds no tars, none with a usable sample, or an unfinished build.
        StorageError: the index cannot be written; nothing is changed.
    """
    progress = progress or Progress()
    shards = _shards(options)
    try:
        count_tokens = token_counter(options.tokenizer)
    except ValueError as error:
        raise BuildError(str(error)) from error
    state = BuildState(options.folder, _STATE_FOLDER)
    try:
        with writing(options.folder, "make room there"):
            state.folder.mkdir(exist_ok=True)
            number, scores = _write_parts(state, shards, options, count_tokens, progress)
            header, left_out = state.finish(number, scores, {})
    finally:
        shutil.rmtree(state.folder, ignore_errors=True)
    return BuildResult(header["samples"], len(header["shards"]), left_out, 0.0)


def _write_parts(
    state: BuildState,
    shards: list[Path],
    options: IndexOptions,
    count_tokens: Callable[[str], int | None],
    progress: Progress,
) -> tuple[int, list[str]]:
    """(how many records were written, names of the scores there are)."""
    progress.begin(0, 0)
    scores = dict.fromkeys(options.scores, False)
    rows: list[IndexRow] = []
    skipped: list[Skipped] = []
    number = 0
    with made_in_order(lambda found: _row(found, options.scores), _samples(shards), options.workers) as made:
        for found, future in made:
            if isinstance(found, _End):
                if found.problem:
                    skipped.append(Skipped("", str(found.shard), found.problem))
                state.write(number, Part(found.shard.name, found.shard.stat().st_size, skipped, rows))
                progress.shard(found.shard.name, len(rows))
                number, rows, skipped = number + 1, [], []
                continue
            try:
                row, caption = future.result()
            except UndecodableError as error:
                skipped.append(Skipped(found.key, f"{found.shard}/{found.key}", str(error)))
                progress.piece(skipped[-1])
                continue
            scores.update(dict.fromkeys(row.scores, True))
            rows.append(replace(row, caption_tokens=count_tokens(caption)))
            progress.piece(None)
    absent = [name for name, there in scores.items() if not there]
    if absent:
        accepted = "accepted: names of numbers in the json members"
        raise BuildError(f"--scores {' '.join(absent)}: no sample has it; {accepted}")
    return number, list(scores)


def _shards(options: IndexOptions) -> list[Path]:
    folder = options.folder
    if not folder.is_dir():
        raise BuildError(f"{folder}: no such folder; accepted: a folder of .tar files")
    if options.workers < 1:
        raise BuildError(f"--workers {options.workers}: accepted: 1 or more")
    if (folder / STATE_FOLDER).exists():
        raise BuildError(f"{folder}: holds an unfinished build; run its command, tools/build_shards.py, again")
    shards = sorted(path for path in folder.glob("*.tar") if path.is_file() and not path.name.startswith("."))
    if not shards:
        raise BuildError(f"{folder}: holds no shards; accepted: a folder of .tar files")
    return shards


def _samples(shards: list[Path]) -> Iterator[_Found | _End]:
    """All samples of all shards, each shard followed by its end."""
    keys: set[str] = set()
    for shard in shards:
        members, problem = _members(shard)
        found: _Found | None = None
        for key, extension, offset, size in members:
            if found is None or found.key != key or extension in found.members:
                if found is not None:
                    yield found
                found = _Found(shard, key)
                if key in keys:
                    found.problem = "its key was there before"
                keys.add(key)
            found.members[extension] = (offset, size)
        if found is not None:
            if problem and (_media(found) is None or CAPTION_EXTENSION not in found.members):
                found.problem = f"its shard ends inside it ({problem})"
            yield found
        yield _End(shard, problem and f"the shard ends early ({problem}); its whole samples before are kept")


def _members(shard: Path) -> tuple[list[tuple[str, str, int, int]], str]:
    """((key, extension, offset, size) of every whole file in a tar, what is wrong with its end)."""
    members: list[tuple[str, str, int, int]] = []
    length = shard.stat().st_size
    try:
        with tarfile.open(shard, "r:") as tar:
            for info in tar:
                if info.offset_data + info.size > length:
                    return members, f"{info.name} is cut off"
                name = _MEMBER.match(info.name)
                if name and info.isreg() and not info.issparse():
                    members.append((name[1], name[2].lower(), info.offset_data, info.size))
            with shard.open("rb") as file:
                # tarfile takes whatever is no header for the end, and so would miss that there is none.
                ended = read_at(file.fileno(), tar.offset, tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
    except (tarfile.TarError, OSError, UnicodeError) as error:
        return members, str(error)
    return members, "" if ended else "it has no end mark"


def _media(found: _Found) -> str | None:
    """Extension of the sample's video or, without one, of its image."""
    for extensions in (VIDEO_EXTENSIONS, IMAGE_EXTENSIONS):
        for extension in found.members:
            if extension in extensions:
                return extension
    return None


def _row(found: _Found | _End, listed: tuple[str, ...]) -> tuple[IndexRow, str]:
    """(row of the index, caption) of a sample; UndecodableError where it cannot be used, or is none."""
    if isinstance(found, _End):
        raise UndecodableError("no sample")
    media = _media(found)
    if found.problem:
        raise UndecodableError(found.problem)
    if media is None:
        raise UndecodableError(f"it has no video or image, only .{', .'.join(found.members)}")
    if CAPTION_EXTENSION not in found.members:
        raise UndecodableError("it has no caption (.txt)")
    members = {name: found.members[name] for name in (media, CAPTION_EXTENSION, "json") if name in found.members}
    try:
        with found.shard.open("rb") as file:
            content = {name: read_at(file.fileno(), *place) for name, place in members.items()}
        caption = content[CAPTION_EXTENSION].decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise UndecodableError(f"its caption is no UTF-8 ({error})") from error
    except OSError as error:
        raise UndecodableError(str(error)) from error
    if not caption:
        raise UndecodableError("its caption is empty")
    scores = _scores(content.get("json"), listed)
    clip = probe_media(content[media], media)
    return IndexRow(found.shard.name, found.key, media, members, clip, len(caption), scores=scores), caption


def _scores(about: bytes | None, listed: tuple[str, ...]) -> dict[str, float | None]:
    """Numbers of a json member that are scores."""
    try:
        entries: Any = parse_json(about) if about else {}
    except ValueError as error:
        raise UndecodableError(f"its .json is no JSON ({error})") from error
    scores: dict[str, float | None] = {}
    for name, value in entries.items() if isinstance(entries, dict) else ():
        if name in listed or name.startswith(PREFIX):
            try:
                scores[name] = score_of(value)
            except (TypeError, ValueError):
                if name in listed:
                    raise UndecodableError(f"its {name} is no number: {value!r}") from None
    return scores

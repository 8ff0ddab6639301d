"""Indexing webdataset tars that are there already, whoever made them."""

import re
import shutil
import tarfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vidtron.config.storage import writing
from vidtron.data.building.build_state import BuildError, BuildState, Part, Progress, Skipped, made_in_order
from vidtron.data.building.captions import Words, read_words, token_counter
from vidtron.data.building.probe import probe_media
from vidtron.data.building.scores import scores_among
from vidtron.data.building.shard_writer import STATE_FOLDER, BuildResult
from vidtron.data.building.tar_sources import ACCEPTED, TarSource, expand, is_folder, is_tar_name, tars_of
from vidtron.data.decoding.pyav import UndecodableError
from vidtron.data.shards.index_schema import CAPTION_KEY
from vidtron.data.shards.sample import CAPTION_EXTENSION, IndexRow, media_of
from vidtron.data.shards.shard_reader import read_at

_STATE_FOLDER = ".index"
_MOST_TOLD = 5
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
    caption_key: str | None = None
    """Where the json members have the captions (see `caption_at`); None: the txt members have them."""
    tars: tuple[Path, ...] | None = None
    """The tars of the folder that are indexed; None: all."""


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

    What cannot be used is left out and named in skipped.jsonl: tars that cannot be read at random, samples without
    video or caption, captions that are no UTF-8, clips that cannot be decoded, keys that were there before. Of a tar
    that ends early the whole samples are kept. Samples whose json cannot be used are kept without it, and named in
    flawed.jsonl.

    Raises:
        BuildError: the folder holds no tars that can be indexed, none with a usable sample, or an unfinished build.
        StorageError: the index cannot be written; nothing is changed.
    """
    progress = progress or Progress()
    shards, unusable = _shards(options)
    try:
        count_tokens = token_counter(options.tokenizer)
    except ValueError as error:
        raise BuildError(str(error)) from error
    state = BuildState(options.folder, _STATE_FOLDER)
    try:
        with writing(options.folder, "make room there"):
            state.folder.mkdir(exist_ok=True)
            number, scores = _write_parts(state, shards, unusable, options, count_tokens, progress)
            extra = {} if options.caption_key is None else {CAPTION_KEY: options.caption_key}
            header, left_out, flawed = state.finish(number, scores, extra)
    finally:
        shutil.rmtree(state.folder, ignore_errors=True)
    return BuildResult(header["samples"], len(header["shards"]), left_out, 0.0, flawed=flawed)


def _write_parts(
    state: BuildState,
    shards: list[Path],
    unusable: Sequence[Skipped],
    options: IndexOptions,
    count_tokens: Callable[[str], int | None],
    progress: Progress,
) -> tuple[int, list[str]]:
    """(how many records were written, names of the scores there are)."""
    progress.begin(0, 0)
    scores = dict.fromkeys(options.scores, False)
    rows: list[IndexRow] = []
    skipped = list(unusable)
    for one in unusable:
        progress.piece(one)
    flawed: list[Skipped] = []
    number = 0
    words = {CAPTION_EXTENSION} | ({"json"} if options.caption_key is not None else set())
    with made_in_order(lambda found: _row(found, options), _samples(shards, words), options.workers) as made:
        for found, future in made:
            if isinstance(found, _End):
                if found.problem:
                    skipped.append(Skipped("", str(found.shard), found.problem))
                state.write(number, Part(found.shard.name, found.shard.stat().st_size, skipped, rows, flawed))
                progress.shard(found.shard.name, len(rows))
                number, rows, skipped, flawed = number + 1, [], [], []
                continue
            try:
                row, said = future.result()
            except UndecodableError as error:
                skipped.append(Skipped(found.key, f"{found.shard}/{found.key}", str(error)))
                progress.piece(skipped[-1])
                continue
            scores.update(dict.fromkeys(row.scores, True))
            rows.append(replace(row, caption_tokens=count_tokens(said.caption)))
            if said.flaw:
                flawed.append(Skipped(found.key, f"{found.shard}/{found.key}", said.flaw))
                progress.flawed(flawed[-1])
            progress.piece(None)
    absent = [name for name, there in scores.items() if not there]
    if absent:
        accepted = "accepted: names of numbers in the json members"
        raise BuildError(f"--scores {' '.join(absent)}: no sample has it; {accepted}")
    return number, list(scores)


def folders_of(arguments: Sequence[str]) -> tuple[dict[Path, tuple[Path, ...] | None], list[Skipped]]:
    """(folders with the tars to be indexed in each, None for all; what lies in no folder and so cannot be indexed).

    Args:
        arguments: folders, tars, and what webdataset takes for them (see `tar_sources.expand`).

    Raises:
        BuildError: an argument cannot be expanded or names a file that is not there, or nothing lies in a folder.
    """
    folders: dict[Path, tuple[Path, ...] | None] = {}
    elsewhere: list[Skipped] = []
    for argument in arguments:
        if is_folder(argument) or _is_plain_name(argument):
            folders[Path(argument)] = None
            continue
        for source in expand(argument):
            if source.path is None:
                elsewhere.append(Skipped("", source.name, source.not_random()))
                continue
            named = folders.setdefault(source.path.parent, ())
            if named is not None:
                folders[source.path.parent] = tuple(dict.fromkeys((*named, source.path)))
    if not folders:
        raise BuildError("; ".join(f"{one.path}: {one.reason}" for one in elsewhere[:_MOST_TOLD]))
    return folders, elsewhere


def _is_plain_name(argument: str) -> bool:
    """Whether an argument that is no file can only be meant as a folder."""
    return not (any(sign in argument for sign in ("{", ":")) or is_tar_name(argument) or Path(argument).is_file())


def _shards(options: IndexOptions) -> tuple[list[Path], list[Skipped]]:
    """(tars to be indexed, those that cannot be)."""
    folder = options.folder
    if not folder.is_dir():
        raise BuildError(f"{folder}: no such folder; accepted: a folder of .tar files, {ACCEPTED}")
    if options.workers < 1:
        raise BuildError(f"--workers {options.workers}: accepted: 1 or more")
    if (folder / STATE_FOLDER).exists():
        raise BuildError(f"{folder}: holds an unfinished build; run its command, tools/build_shards.py, again")
    tars = tars_of(folder) if options.tars is None else [TarSource(str(path), path) for path in options.tars]
    shards: list[Path] = []
    unusable: list[Skipped] = []
    for tar in tars:
        assert tar.path is not None
        why = _not_indexed(tar)
        if why:
            unusable.append(Skipped("", tar.name, why))
        else:
            shards.append(tar.path)
    if not shards:
        told = "; ".join(f"{one.path}: {one.reason}" for one in unusable[:_MOST_TOLD])
        more = f"; and {len(unusable) - _MOST_TOLD} more" if len(unusable) > _MOST_TOLD else ""
        found = f" that can be indexed; {told}{more}" if unusable else "; accepted: a folder of .tar files"
        raise BuildError(f"{folder}: holds no shards{found}")
    return shards, unusable


def _not_indexed(tar: TarSource) -> str:
    try:
        why = tar.not_random()
    except OSError as error:
        return str(error)
    assert tar.path is not None
    if not why and tar.path.suffix != ".tar":
        why = "it is not compressed; accepted: under a name that ends in .tar"
    return why


def _samples(shards: list[Path], words: Collection[str]) -> Iterator[_Found | _End]:
    """All samples of all shards, each shard followed by its end; `words`: members that may have a caption."""
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
            if problem and (media_of(found.members) is None or not found.members.keys() & words):
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


def _row(found: _Found | _End, options: IndexOptions) -> tuple[IndexRow, Words]:
    """(row of the index, caption and json) of a sample; UndecodableError where it cannot be used, or is none."""
    if isinstance(found, _End):
        raise UndecodableError("no sample")
    media = media_of(found.members)
    if found.problem:
        raise UndecodableError(found.problem)
    if media is None:
        raise UndecodableError(f"it has no video or image, only .{', .'.join(found.members)}")
    members = {name: found.members[name] for name in (media, CAPTION_EXTENSION, "json") if name in found.members}
    try:
        with found.shard.open("rb") as file:
            content = {name: read_at(file.fileno(), *place) for name, place in members.items()}
        words = read_words(content.get(CAPTION_EXTENSION), content.get("json"), options.caption_key)
        scores = scores_among(words.entries, options.scores)
    except (OSError, ValueError) as error:
        raise UndecodableError(str(error)) from error
    if words.in_json:
        members[CAPTION_EXTENSION] = members["json"]  # which says that it is to be looked for there
    if not words.whole:
        members.pop("json", None)
    clip = probe_media(content[media], media)
    return IndexRow(found.shard.name, found.key, media, members, clip, len(words.caption), scores=scores), words

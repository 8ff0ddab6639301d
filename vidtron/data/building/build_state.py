"""The state of shards that are being made or indexed: a record for each finished shard, from which the index is
written at the end without holding all samples in memory."""

import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from vidtron.config.storage import whole_file
from vidtron.data.building.scores import column_of, columns_of
from vidtron.data.shards.index_writer import IndexWriter
from vidtron.data.shards.sample import IndexRow

SKIPPED_NAME = "skipped.jsonl"
FLAWED_NAME = "flawed.jsonl"
_RECORD_VERSION = 2
"""Of a shard's record; one of another version is made again."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class BuildError(ValueError):
    """Arguments a build cannot work with, or nothing to build from; the message names what would be accepted."""


@dataclass(frozen=True)
class Skipped:
    """A clip that was left out; or one that was taken though something is wrong with what came with it."""

    key: str
    path: str
    reason: str


class Progress:
    """What a build tells while it works; the default says nothing."""

    def begin(self, pieces: int, done: int) -> None:
        """There are so many pieces, so many of which an earlier run has done."""

    def piece(self, skipped: Skipped | None) -> None:
        """One more piece is done, or had to be skipped."""

    def flawed(self, flaw: Skipped) -> None:
        """Something is wrong with what came with a piece that is done."""

    def shard(self, name: str, samples: int) -> None:
        """A shard is finished."""


@dataclass(frozen=True)
class Part:
    """What a finished shard holds."""

    shard: str
    size: int
    """Bytes."""
    skipped: list[Skipped]
    rows: list[IndexRow]
    flawed: list[Skipped] = field(default_factory=list)
    """Samples among the rows that have a flaw, and which."""


class BuildState:
    """The records, in a folder beside the shards."""

    def __init__(self, output: Path, name: str) -> None:
        self.output = output
        self.folder = output / name

    def write(self, number: int, part: Part) -> None:
        """Record that a shard is finished."""
        content = {
            "version": _RECORD_VERSION,
            "shard": part.shard,
            "size": part.size,
            "skipped": [asdict(one) for one in part.skipped],
            "rows": [row.as_json() for row in part.rows],
            "flawed": [asdict(one) for one in part.flawed],
        }
        write_atomically(self._path(number), json.dumps(content, ensure_ascii=False))

    def read(self, number: int) -> Part | None:
        """The record of a shard; None where it is not finished, or no longer there, or of an earlier version."""
        path = self._path(number)
        if not path.is_file():
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("version") != _RECORD_VERSION:
            return None
        rows = [IndexRow.from_json(row) for row in content["rows"]]
        shard = self.output / content["shard"]
        if rows and not (shard.is_file() and shard.stat().st_size == content["size"]):
            return None
        skipped, flawed = ([Skipped(**one) for one in content[name]] for name in ("skipped", "flawed"))
        return Part(content["shard"], content["size"], skipped, rows, flawed)

    def finish(
        self, parts: int, scores: Sequence[str], extra: dict[str, Any]
    ) -> tuple[dict[str, Any], list[Skipped], list[Skipped]]:
        """Write the index and the lists of skipped and flawed clips, and remove the state: (header of the index,
        skipped, flawed).

        Args:
            parts: number of records.
            scores: names of the rows' scores; `columns_of` them are the index's columns.
            extra: further entries of the index's header.

        Raises:
            BuildError: there is no sample, or two scores would be one column.
        """
        try:
            columns = columns_of(scores)
        except ValueError as error:
            raise BuildError(str(error)) from error
        skipped: list[Skipped] = []
        flawed: list[Skipped] = []
        shards: dict[str, int] = {}
        with IndexWriter(self.output, columns) as writer:
            for part in self.parts(parts):
                skipped += part.skipped
                flawed += part.flawed
                if part.rows:
                    shards[part.shard] = part.size
                for row in part.rows:
                    writer.add(replace(row, scores={column_of(name): row.scores.get(name) for name in scores}))
            if not shards:
                first = f"; the first: {skipped[0].path}: {skipped[0].reason}" if skipped else ""
                raise BuildError(f"none of the {len(skipped)} clips can be used{first}")
            for name, named in ((SKIPPED_NAME, skipped), (FLAWED_NAME, flawed)):
                if named:
                    lines = [json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in named]
                    write_atomically(self.output / name, "".join(lines))
                else:
                    (self.output / name).unlink(missing_ok=True)
            header = writer.finish(shards, {"skipped": len(skipped), **extra})
        shutil.rmtree(self.folder)
        return header, skipped, flawed

    def parts(self, count: int) -> Iterator[Part]:
        """The records, in order."""
        for number in range(count):
            part = self.read(number)
            if part is None:
                raise BuildError(
                    f"{self.output}: shard {number} was changed by another program; run the command again"
                )
            yield part

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.json"


def read_named(output: Path, name: str) -> list[Skipped]:
    """The clips that a finished build has left out (SKIPPED_NAME), or taken with a flaw (FLAWED_NAME)."""
    path = output / name
    if not path.is_file():
        return []
    return [Skipped(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def write_atomically(path: Path, text: str) -> None:
    """Write a file that is either as it was or complete."""
    with whole_file(path) as part, part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def made_in_order(
    make: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[Iterator[tuple[Item, Future[Result]]]]:
    """Each item with its result, in order, while threads make the next ones: a context, left without waiting for
    what an error has made needless."""
    with ThreadPoolExecutor(workers, thread_name_prefix="clip") as pool:
        try:
            yield _in_order(pool, make, items, ahead=2 * workers)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _in_order(
    pool: ThreadPoolExecutor, make: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[tuple[Item, Future[Result]]]:
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    for item in items:
        waiting.append((item, pool.submit(make, item)))
        if len(waiting) >= ahead:
            yield waiting.popleft()
    yield from waiting

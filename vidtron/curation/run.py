"""Running a step over a table: in parts that are kept, so that a run that was killed goes on where it stopped."""

import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from vidtron.config.ranges import Range, refusals
from vidtron.curation.step import RowStep
from vidtron.curation.table import (
    ERROR,
    CurationError,
    Provenance,
    Row,
    already_made,
    digest,
    read_table,
    write_table,
)
from vidtron.curation.workers import Crew

Results = Generator[tuple[int, list[Row]], None, None]


@dataclass(frozen=True)
class Running:
    """Settings of running a step, none of which changes the table."""

    workers: Annotated[int, Range(0, 4096)] | None = None
    """Processes; unset: one per CPU; for steps that run a network one per GPU, or a single one without GPUs; 0: in the
    command's own process."""
    rows_per_part: Annotated[int, Range(1, 1_000_000)] = 64
    """Rows after which an interrupted run need not repeat them."""
    row_seconds: Annotated[float, Range(0, 10_000_000, above=True)] = 600.0
    """A row that takes longer is tried once more and then gets an error."""
    ray_address: str | None = None
    """Address of a Ray cluster (auto, ray://HOST:PORT) whose nodes do the work, or local: a Ray of this machine.
    Videos and weights must have the same paths on every node."""


@dataclass(frozen=True)
class Result:
    """Counts of the rows of a table."""

    output: Path
    rows: int
    errors: Counter[str]
    """Reason -> number of rows that have it as their error."""
    already_complete: bool = False


def run_step(step: RowStep, source: Path, output: Path, running: Running) -> Result:
    """Measure every row of a table, or finish what an earlier call began.

    Raises:
        CurationError: the step, the table or the output cannot be used as asked; all errors, one a line.
    """
    _check_running(running)
    table = read_table(source, needs=step.needed())
    provenance = Provenance(step.name, {**step.arguments(), "--input": digest(source)})
    if already_made(output, provenance):
        return result_of(output, already_complete=True)
    schema = step.schema(table.schema)
    parts = _Parts(output, provenance, schema, table.num_rows)
    errors = step.errors(resuming=parts.begun())
    if errors:
        raise CurationError("\n".join(errors))
    parts.begin(running.rows_per_part)
    due = [part for part in parts.ranges if not parts.is_done(part)]
    _measure(step, table, parts, due, running)
    write_table(output, schema, (parts.read(part) for part in parts.ranges), provenance)
    parts.remove()
    return result_of(output)


def run_table_step(
    name: str, arguments: dict[str, object], inputs: dict[str, Path], output: Path, make: Callable[[], pa.Table]
) -> Result:
    """Write what `make` returns, unless the same command has written it already.

    Args:
        name: of the step.
        arguments: flags that change the result.
        inputs: flag -> file that is read.
        output: new table.
        make: called if there is something to do.
    """
    digests = {flag: digest(path) for flag, path in inputs.items() if path.is_file()}
    provenance = Provenance(name, {**arguments, **digests})
    if already_made(output, provenance):
        return result_of(output, already_complete=True)
    table = make()
    write_table(output, table.schema, [table], provenance)
    return result_of(output)


def result_of(output: Path, already_complete: bool = False) -> Result:
    """Count what a finished table holds."""
    file = pq.ParquetFile(output)
    errors: Counter[str] = Counter()
    if ERROR in file.schema_arrow.names:
        errors.update(value for value in file.read([ERROR])[ERROR].to_pylist() if value)
    return Result(output, file.metadata.num_rows, errors, already_complete)


def _check_running(running: Running) -> None:
    errors = [refusal.message for refusal in refusals(running)]
    if errors:
        raise CurationError("\n".join(errors))


def _measure(step: RowStep, table: pa.Table, parts: "_Parts", due: Sequence[range], running: Running) -> None:
    """Measure the rows of all parts that are due, and write each part when its last row is done."""
    rows_due = sum(len(part) for part in due)
    collected: defaultdict[range, dict[int, list[Row]]] = defaultdict(dict)
    with (
        tqdm(total=table.num_rows, initial=table.num_rows - rows_due, unit="row", desc=step.name, disable=None) as bar,
        closing(_results(step, table, due, running)) as results,
    ):
        for number, rows in results:
            part = parts.range_of(number)
            collected[part][number] = rows
            bar.update()
            if len(collected[part]) == len(part):
                done = collected.pop(part)
                parts.write(part, [row for number in part for row in done[number]])


def _results(step: RowStep, table: pa.Table, due: Sequence[range], running: Running) -> Results:
    if not due:
        return
    if running.ray_address is not None:
        from vidtron.curation.ray_data import measured

        yield from measured(step, table, due, running.ray_address, running.workers, running.row_seconds)
        return
    rows_due = sum(len(part) for part in due)
    workers = default_workers(step) if running.workers is None else running.workers
    with Crew(step, min(workers, rows_due), running.row_seconds) as crew:
        yield from crew.map(numbered_rows(table, due))


def numbered_rows(table: pa.Table, ranges: Iterable[range]) -> Iterator[tuple[int, Row]]:
    """(number, row) of the rows in some ranges."""
    for part in ranges:
        yield from zip(part, table.slice(part.start, len(part)).to_pylist(), strict=True)


def default_workers(step: RowStep) -> int:
    """Processes that a machine can feed."""
    if step.uses_gpu():
        import torch

        return torch.cuda.device_count()
    return 1 if step.runs_network() else os.cpu_count() or 1


class _Parts:
    """The folder OUTPUT.parts: the command, and a Parquet file for each range of rows that is done."""

    def __init__(self, output: Path, provenance: Provenance, schema: pa.Schema, rows: int) -> None:
        self._folder = output.with_name(f"{output.name}.parts")
        self._about = self._folder / "command.json"
        self._provenance = provenance
        self._schema = schema
        self._rows = rows
        self.ranges: list[range] = []

    def begun(self) -> bool:
        """Whether an earlier run of the same command has left parts; CurationError for those of another command."""
        if not self._about.is_file():
            return False
        earlier = Provenance.from_json(json.loads(self._about.read_text(encoding="utf-8"))["command"])
        changed = self._provenance.differences(earlier)
        if changed:
            raise CurationError(
                f"{self._folder}: holds parts of another command ({'; '.join(changed)}); accepted: the same command, "
                "another --output, or this folder deleted"
            )
        return True

    def begin(self, rows_per_part: int) -> None:
        """Note the command; an interrupted run's parts keep their length."""
        if self.begun():
            rows_per_part = json.loads(self._about.read_text(encoding="utf-8"))["rows_per_part"]
        else:
            self._folder.mkdir(parents=True, exist_ok=True)
            about = {"command": self._provenance.to_json(), "rows_per_part": rows_per_part}
            temporary = self._about.with_name(".command.tmp")
            temporary.write_text(json.dumps(about), encoding="utf-8")
            temporary.replace(self._about)
        starts = range(0, self._rows, rows_per_part)
        self.ranges = [range(start, min(start + rows_per_part, self._rows)) for start in starts]

    def range_of(self, number: int) -> range:
        """The part that a row belongs to."""
        return self.ranges[number // len(self.ranges[0])]

    def is_done(self, part: range) -> bool:
        """Whether these rows were measured."""
        return self._path(part).is_file()

    def write(self, part: range, rows: list[Row]) -> None:
        """Keep the rows of a part."""
        temporary = self._path(part).with_suffix(".tmp")
        pq.write_table(pa.Table.from_pylist(rows, schema=self._schema), temporary)
        temporary.replace(self._path(part))

    def read(self, part: range) -> pa.Table:
        """The rows of a part."""
        return pq.read_table(self._path(part))

    def remove(self) -> None:
        """The table is written: nothing here is needed any more."""
        shutil.rmtree(self._folder)

    def _path(self, part: range) -> Path:
        return self._folder / f"{part.start:010d}.parquet"

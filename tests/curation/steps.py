"""Running steps in the test's own process."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vidtron.curation.run import Running, run_step
from vidtron.curation.scan import scan
from vidtron.curation.step import RowStep

HERE = Running(workers=0)


def table_of(folder: Path, output: Path) -> Path:
    """The table that `scan` makes of a folder."""
    pq.write_table(scan(folder, images=True), output)
    return output


def rows_in(path: Path) -> list[dict[str, Any]]:
    """Rows of a finished table, as they are on disk."""
    return pq.read_table(path).to_pylist()


def rows_of(step: RowStep, source: Path, output: Path | None = None, running: Running = HERE) -> list[dict[str, Any]]:
    """The rows a step makes of a table."""
    output = output or source.with_name(f"{step.name}.parquet")
    run_step(step, source, output, running)
    return rows_in(output)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A table that no step has made."""
    names = dict.fromkeys(name for row in rows for name in row)
    pq.write_table(pa.Table.from_pylist([dict.fromkeys(names) | row for row in rows]), path)
    return path

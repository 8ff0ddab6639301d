"""Tables of clips: one Parquet file each, which remembers the command that made it.

A row is a video, an image or a clip, told by its column `path`; the text column `error` says why a row has no
measurements. Paths are absolute in memory and relative to the table's folder on disk where they lie below it, so that
a folder of tables and clips can be moved as a whole.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from vidtron.config.foreign_json import parse_json

Row = dict[str, Any]
PATH_COLUMNS = ("path", "source")
ERROR = "error"
_METADATA_KEY = b"vidtron.curation"


class CurationError(ValueError):
    """Something a step cannot work with; each line names a flag, file or column and what would be accepted."""


@dataclass(frozen=True)
class Provenance:
    """The command that a table comes from: equal provenance means equal content."""

    step: str
    arguments: dict[str, Any]
    """Flags that change the result, and `--input` as a digest of the file."""

    def differences(self, other: "Provenance") -> list[str]:
        """Differences of another command from this one, one line each."""
        if self.step != other.step:
            return [f"the step was {other.step}, is {self.step}"]
        names = sorted({*self.arguments, *other.arguments})
        return [
            f"{name} was {other.arguments.get(name)}, is {self.arguments.get(name)}"
            for name in names
            if self.arguments.get(name) != other.arguments.get(name)
        ]

    def to_json(self) -> str:
        """Text that `from_json` reads."""
        return json.dumps({"step": self.step, "arguments": self.arguments}, sort_keys=True, ensure_ascii=False)

    @staticmethod
    def from_json(text: str | bytes) -> "Provenance":
        """Inverse of `to_json`; ValueError for other text."""
        content = parse_json(text)
        if not isinstance(content, dict) or not isinstance(content.get("arguments"), dict) or "step" not in content:
            raise ValueError("it tells no command")
        return Provenance(content["step"], content["arguments"])


def digest(path: Path) -> str:
    """Short hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def read_table(path: Path, flag: str = "--input", needs: Iterable[str] = ("path",)) -> pa.Table:
    """A table with absolute paths.

    Args:
        path: .parquet, .csv, .tsv or .jsonl.
        flag: named in errors.
        needs: columns that must be there.

    Raises:
        CurationError: no such file, not readable, or a column is missing.
    """
    readers = {
        ".parquet": pq.read_table,
        ".csv": pyarrow.csv.read_csv,
        ".tsv": lambda file: pyarrow.csv.read_csv(file, parse_options=pyarrow.csv.ParseOptions(delimiter="\t")),
        ".jsonl": _read_jsonl,
    }
    if not path.is_file() or path.suffix not in readers:
        problem = "accepted: a table" if path.is_file() else "no such file; accepted: a table"
        raise CurationError(f"{flag} {path}: {problem} ({', '.join(readers)})")
    try:
        table = readers[path.suffix](path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CurationError(f"{flag} {path}: cannot be read ({error})") from error
    missing = [name for name in needs if name not in table.column_names]
    if missing:
        raise CurationError(
            f"{flag} {path}: has no column {', '.join(missing)}; it has {', '.join(table.column_names)}"
        )
    folder = str(path.parent.absolute())
    return _with_paths(table, lambda value: value if "://" in value else os.path.normpath(os.path.join(folder, value)))


def _read_jsonl(path: Path) -> pa.Table:
    """A table of JSON lines. Arrow's own parser ends the process at deep nesting, so nothing unchecked reaches it."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    parse_json(line)
                except ValueError as error:
                    raise ValueError(f"line {number}: {error}") from error
    return pyarrow.json.read_json(path)


def provenance_of(path: Path) -> Provenance | None:
    """The command and inputs that made a table; None for a file that no step has written."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (pa.ArrowException, OSError):
        return None
    try:
        return Provenance.from_json(metadata[_METADATA_KEY]) if _METADATA_KEY in metadata else None
    except ValueError:
        return None


def already_made(output: Path, provenance: Provenance) -> bool:
    """Whether the output is there and comes from the same command.

    Raises:
        CurationError: something else is there.
    """
    if output.suffix != ".parquet":
        raise CurationError(f"--output {output}: accepted: a file name that ends in .parquet")
    if not output.exists():
        return False
    earlier = provenance_of(output)
    if earlier is None:
        raise CurationError(f"--output {output}: is there and not made by a step; accepted: another name")
    changed = provenance.differences(earlier)
    if changed:
        raise CurationError(
            f"--output {output}: is there, made by another command ({'; '.join(changed)}); "
            "accepted: the same command, or another name"
        )
    return True


def write_table(output: Path, schema: pa.Schema, tables: Iterable[pa.Table], provenance: Provenance) -> None:
    """Write tables of one schema one after another into a file that appears when it is whole."""
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = str(output.parent.absolute())
    temporary = output.with_name(f".{output.name}.tmp")
    schema = schema.with_metadata({_METADATA_KEY: provenance.to_json().encode()})
    with pq.ParquetWriter(temporary, schema) as writer:
        for table in tables:
            writer.write_table(_with_paths(table, lambda value: _relative(value, folder)).cast(schema))
    temporary.replace(output)


def _relative(path: str, folder: str) -> str:
    return os.path.relpath(path, folder) if path.startswith(folder + os.sep) else path


def _with_paths(table: pa.Table, change: Any) -> pa.Table:
    for name in PATH_COLUMNS:
        if name in table.column_names:
            values = [None if value is None else change(value) for value in table[name].to_pylist()]
            table = table.set_column(table.column_names.index(name), name, pa.array(values, pa.string()))
    return table

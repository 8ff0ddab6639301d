"""Step join: two tables become one, by path."""

from collections import Counter
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from vidtron.curation.table import ERROR, CurationError

How = Literal["left", "intersection", "difference", "append"]


def join(first: pa.Table, second: pa.Table, how: How, names: tuple[str, str]) -> pa.Table:
    """Rows of the first table, in its order, with those of the second.

    Args:
        first: with absolute paths.
        second: with absolute paths.
        how: left: all rows of the first, with the second's columns where it has the path; intersection: only the rows
            whose path both have; difference: only the rows whose path the second has not, without its columns;
            append: all rows of the first, then those of the second with other paths.
        names: of the tables, for messages.

    A column of both keeps the first's value unless that is null.

    Raises:
        CurationError: a path is twice in a table, or a column has different types.
    """
    for table, name in zip((first, second), names, strict=True):
        twice = [path for path, count in Counter(table["path"].to_pylist()).items() if count > 1]
        if twice:
            raise CurationError(f"{name}: {twice[0]} is in it more than once ({len(twice)} such paths)")
    schema = first.schema if how == "difference" else _schema(first, second, names)
    others: dict[str, dict[str, Any]] = {row["path"]: row for row in second.to_pylist()}
    rows = first.to_pylist()
    if how == "difference":
        rows = [row for row in rows if row["path"] not in others]
    elif how == "append":
        here = {row["path"] for row in rows}
        rows += [row for path, row in others.items() if path not in here]
    else:
        if how == "intersection":
            rows = [row for row in rows if row["path"] in others]
        rows = [_united(row, others.get(row["path"], {})) for row in rows]
    return pa.Table.from_pylist(rows, schema=schema)


def _united(row: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return other | {name: value for name, value in row.items() if value is not None or name not in other}


def _schema(first: pa.Table, second: pa.Table, names: tuple[str, str]) -> pa.Schema:
    try:
        fields = pa.unify_schemas([first.schema.remove_metadata(), second.schema.remove_metadata()])
    except pa.ArrowException as error:
        raise CurationError(f"{names[0]} and {names[1]}: {error}") from error
    last = [field for field in fields if field.name == ERROR]
    return pa.schema([*(field for field in fields if field.name != ERROR), *last])


def named(flag: str, path: Path) -> str:
    """Name of a table in messages."""
    return f"{flag} {path}"

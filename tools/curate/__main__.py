"""Curate videos: from a folder to a table of clips with measurements and captions, for tools/build_shards.py.

    python tools/curate STEP --input TABLE --output TABLE ...

Every step reads one Parquet table and writes another; only scan starts from a folder. A file that cannot be used is a
row with an error, never a crash. Run the same command again to finish one that was interrupted.
docs/curation.md shows the whole chain.
"""

from vidtron.config import signals

if __name__ == "__main__":
    signals.listen_for_end()

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import tyro

from vidtron.curation.caption import Caption
from vidtron.curation.cleaning import Clean
from vidtron.curation.clip_scores import Aesthetic, Match
from vidtron.curation.cut import Cut
from vidtron.curation.expression import Condition, removed_by_each
from vidtron.curation.flow import Flow
from vidtron.curation.join import How, join
from vidtron.curation.motion import Motion
from vidtron.curation.ocr import Ocr
from vidtron.curation.probing import Probe
from vidtron.curation.run import Result, Running, run_step, run_table_step
from vidtron.curation.scan import scan
from vidtron.curation.scenes import Scenes
from vidtron.curation.step import RowStep
from vidtron.curation.table import CurationError, read_table

ROW_STEPS: tuple[type[RowStep], ...] = (Probe, Scenes, Cut, Aesthetic, Flow, Ocr, Motion, Caption, Clean, Match)


def scan_folder(input: Path, output: Path, images: bool = False) -> Result:
    """the videos of a folder as a table

    Args:
        input: folder, searched in depth.
        output: new table.
        images: images as well, as videos of one frame.
    """
    table = scan(input, images)
    names = {"files": hash_of(table)}
    return run_table_step("scan", {"--images": images, **names}, {}, output, lambda: table)


def filter_rows(input: Path, output: Path, where: str) -> Result:
    """the rows that fulfil a condition; tells how many each part of it removes

    Args:
        input: table.
        output: new table.
        where: condition over columns, for instance "aesthetic >= 5 and flow > 0.5 and error is null".
    """

    def make() -> pa.Table:
        table = read_table(input)
        condition = Condition(where)
        for text, alone, here in removed_by_each(condition, table):
            print(f"{here:>8} removed by {text}" + (f" ({alone} by it alone)" if alone != here else ""))
        return table.filter(pc.fill_null(condition.of(table), False))

    return run_table_step("filter", {"--where": where}, {"--input": input}, output, make)


def join_tables(input: Path, other: Path, output: Path, how: How = "left") -> Result:
    """two tables as one, by path

    Args:
        input: table.
        other: second table, for instance with captions or scores.
        output: new table.
        how: left: all rows of the input, with the columns of the other; intersection: only rows that both have;
            difference: only rows that the other has not (what is left to do); append: rows of both.
    """

    def make() -> pa.Table:
        tables = read_table(input), read_table(other, "--other")
        return join(*tables, how, (f"--input {input}", f"--other {other}"))

    return run_table_step("join", {"--how": how}, {"--input": input, "--other": other}, output, make)


def hash_of(table: pa.Table) -> str:
    """Digest of a list of files, by their paths."""
    import hashlib

    return hashlib.blake2b("\n".join(table["path"].to_pylist()).encode(), digest_size=16).hexdigest()


def command(step_class: type[RowStep]) -> Callable[..., Result]:
    """The function behind a step over rows; its parameters are the flags."""

    def run(
        input: Path,
        output: Path,
        step: tyro.conf.OmitArgPrefixes[Any],
        running: tyro.conf.OmitArgPrefixes[Running],
    ) -> Result:
        return run_step(step, input, output, running)

    run.__annotations__["step"] = tyro.conf.OmitArgPrefixes[step_class]
    run.__doc__ = f"{step_class.__doc__}\n\nArgs:\n    input: table.\n    output: new table."
    return run


def report(result: Result) -> None:
    """Print what a table holds."""
    if result.already_complete:
        print(f"{result.output} was complete already")
    print(f"{result.output}: {result.rows} rows")
    failed = result.errors.total()
    if failed:
        print(f"{failed} of them have an error:")
    for reason, count in result.errors.most_common(10):
        print(f"{count:>8} {reason}")
    if len(result.errors) > 10:
        print(f"     ... and {len(result.errors) - 10} other reasons, in the column error")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 where every row has an error, 2 for arguments that cannot be used, 130 for Ctrl-C."""
    commands: dict[str, Callable[..., Any]] = {"scan": scan_folder}
    commands |= {step.name: command(step) for step in ROW_STEPS}
    commands |= {"filter": filter_rows, "join": join_tables}
    try:
        result = tyro.extras.subcommand_cli_from_dict(
            commands, prog="python tools/curate", description=__doc__, args=argv
        )
    except CurationError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 2
    report(result)
    return 1 if result.rows and result.errors.total() == result.rows else 0


if __name__ == "__main__":
    signals.run_tool(main, "the same command goes on from the last finished part")

"""What the command lines that make and index shards share."""

import argparse
import os
import sys
from pathlib import Path

from tqdm import tqdm

from vidtron.config.arguments import MOST_WORKERS, number_in, path_name, text
from vidtron.data.building.build_state import FLAWED_NAME, SKIPPED_NAME, Progress, Skipped


class TerminalProgress(Progress):
    """A bar on a terminal, a line for each shard elsewhere; every skipped clip by name."""

    def __init__(self, *, shown: bool = True) -> None:
        """
        Args:
            shown: show bar and lines; skipped clips are named in any case.
        """
        self.shown = shown
        self.bar: tqdm | None = None

    def begin(self, pieces: int, done: int) -> None:
        self.bar = tqdm(total=pieces or None, initial=done, unit="clip", disable=None if self.shown else True)
        if done:
            of = f" of {pieces}" if pieces else ""
            self.bar.write(f"{done}{of} clips were done before", file=sys.stderr)

    def piece(self, skipped: Skipped | None) -> None:
        self.sample(None if skipped is None else f"{skipped.path}: {skipped.reason}")

    def sample(self, problem: str | None) -> None:
        """One more is done, or had to be skipped: which one and why."""
        assert self.bar is not None
        if problem is not None:
            self.bar.write(f"skipped {problem}", file=sys.stderr)
        self.bar.update()

    def flawed(self, flaw: Skipped) -> None:
        assert self.bar is not None
        self.bar.write(f"kept {flaw.path}: {flaw.reason}", file=sys.stderr)

    def shard(self, name: str, samples: int) -> None:
        assert self.bar is not None
        if self.bar.disable and self.shown:
            print(f"{name}: {samples} clips", file=sys.stderr)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self.bar is not None:
            self.bar.close()


def add_index_arguments(parser: argparse.ArgumentParser) -> None:
    """--caption-key, --tokenizer, --scores, --workers and --strict."""
    group = parser.add_argument_group("index")
    group.add_argument(
        "--caption-key",
        type=text,
        metavar="KEY",
        help="where the json of each sample has its caption: the name of an entry, or names inside of one another "
        "joined by full stops (captions.long, captions.0); where the json has none, the txt is taken, and the sample "
        "named. Of a table: the column",
    )
    group.add_argument(
        "--tokenizer",
        type=path_name,
        metavar="FOLDER",
        help="local folder of a transformers tokenizer: the index then says how many tokens each caption has",
    )
    group.add_argument(
        "--scores",
        nargs="+",
        default=(),
        metavar="NAME",
        help="columns with numbers that the index keeps, besides those whose names start with score",
    )
    parser.add_argument(
        "--workers",
        type=number_in(int, MOST_WORKERS),
        default=os.cpu_count() or 1,
        metavar="N",
        help="clips worked on at a time (default: CPUs)",
    )
    parser.add_argument("--strict", action="store_true", help="exit with status 1 if a clip was skipped")


def report(folder: Path, samples: int, shards: int, skipped: int, flawed: int) -> None:
    """Print what the folder holds now."""
    print(f"{folder}: {samples} samples, shards: {shards}")
    if skipped:
        print(f"{skipped} clips skipped; {folder / SKIPPED_NAME} names them")
    if flawed:
        print(f"{flawed} clips kept though their json is not as it should be; {folder / FLAWED_NAME} names them")

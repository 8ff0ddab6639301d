"""Index webdataset tars that are there already, so that vidtron can train on them.

    python tools/index_shards.py FOLDER
    python tools/index_shards.py 'FOLDER/x-{000..009}.tar'

FOLDER holds .tar files whose samples have a video (mp4, mkv, webm...) or an image (jpg, png, webp), a caption (txt, or
with --caption-key in the json) and, where there is one, a json. Every clip is decoded once, to know its frames; the
tars stay as they are. What cannot be used is named, skipped and counted. The index that older versions wrote is
replaced the same way.

Training reads single samples out of the tars. Nothing can be read so out of compressed tars, URLs and commands
('pipe:...'): these are named, with the command of tools/build_shards.py that makes shards of them.
"""

from vidtron.config import signals

if __name__ == "__main__":
    signals.listen_for_end()

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vidtron.config.arguments import tar_words
from vidtron.config.folders import folder_error
from vidtron.config.ranges import shown
from vidtron.data.building.build_state import BuildError
from vidtron.data.building.shard_indexer import IndexOptions, folders_of, index_shards
from vidtron.data.building.terminal import TerminalProgress, add_index_arguments, report


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 for skipped samples under --strict, 2 for what cannot be used, 130 for Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "inputs",
        type=tar_words,
        nargs="+",
        metavar="FOLDER",
        help="folder of .tar files: all in it are indexed; or some of its files, also as a brace list",
    )
    add_index_arguments(parser)
    arguments = parser.parse_args(argv)
    try:
        folders, elsewhere = folders_of(arguments.inputs)
        for one in elsewhere:
            print(f"skipped {one.path}: {one.reason}", file=sys.stderr)
        skipped = len(elsewhere)
        for folder in filter(Path.is_dir, folders):
            problem = folder_error(folder)
            if problem is not None:
                raise BuildError(f"{shown(str(folder))}: {problem}")
        for folder, tars in folders.items():
            skipped += _index(folder, tars, arguments)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 1 if arguments.strict and skipped else 0


def _index(folder: Path, tars: tuple[Path, ...] | None, arguments: argparse.Namespace) -> int:
    """Index a folder; how many samples were skipped."""
    options = IndexOptions(
        folder, arguments.workers, arguments.tokenizer, tuple(arguments.scores), arguments.caption_key, tars
    )
    progress = TerminalProgress()
    try:
        result = index_shards(options, progress)
    finally:
        progress.close()
    report(folder, result.samples, result.shards, len(result.skipped), len(result.flawed))
    return len(result.skipped)


if __name__ == "__main__":
    signals.run_tool(main, "nothing was changed in the folder it was at")

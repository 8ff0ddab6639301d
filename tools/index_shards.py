"""Index webdataset tars that are there already, so that vidtron can train on them.

    python tools/index_shards.py FOLDER

FOLDER holds .tar files whose samples have a video (mp4, mkv, webm...) or an image (jpg, png, webp), a caption (txt)
and, where there is one, a json. Every clip is decoded once, to know its frames; the tars stay as they are. What cannot
be used is named, skipped and counted. The index that older versions wrote is replaced the same way.
"""

from vidtron.config import signals

if __name__ == "__main__":
    signals.listen_for_end()

import argparse
import sys
from collections.abc import Sequence

from vidtron.config.arguments import path_name
from vidtron.config.folders import folder_error
from vidtron.config.ranges import shown
from vidtron.data.building.build_state import BuildError
from vidtron.data.building.shard_indexer import IndexOptions, index_shards
from vidtron.data.building.terminal import TerminalProgress, add_index_arguments, report


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 for skipped samples under --strict, 2 for a folder that cannot be used, 130 for Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=path_name, metavar="FOLDER", help="folder of .tar files")
    add_index_arguments(parser)
    arguments = parser.parse_args(argv)
    options = IndexOptions(arguments.folder, arguments.workers, arguments.tokenizer, tuple(arguments.scores))
    problem = folder_error(options.folder) if options.folder.is_dir() else None
    if problem is not None:
        print(f"error: {shown(str(options.folder))}: {problem}", file=sys.stderr)
        return 2
    progress = TerminalProgress()
    try:
        result = index_shards(options, progress)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        progress.close()
    report(arguments.folder, result.samples, result.shards, len(result.skipped))
    return 1 if arguments.strict and result.skipped else 0


if __name__ == "__main__":
    signals.run_tool(main, "nothing was changed")

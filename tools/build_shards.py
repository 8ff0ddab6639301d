"""Turn a folder of clips into shards for training.

    python tools/build_shards.py --input CLIPS --output SHARDS

CLIPS is a folder with videos/x.mp4 and labels/x.txt, a folder with x.mp4 and x.txt side by side, a .csv, .tsv, .jsonl
or .parquet file with the columns path and caption, or webdataset tars: a folder of them, files, also compressed
(.tar.gz, .tgz, .tar.bz2, .tar.xz, .tar.zst, .tar.lz4), brace lists ('x-{000..009}.tar.gz'), URLs, and the output of a
shell command ('pipe:aws s3 cp s3://bucket/x.tar -'). Tars keep their keys, captions and json entries. Images (.jpg,
.png, .webp) are samples of one frame and stored as they are. SHARDS becomes a folder of webdataset tars (mp4 or image,
txt, json) and an index. Run the same command again to finish a build that was interrupted. Clips that cannot be read
or have no caption are named, skipped and counted.
"""

from vidtron.config import signals

if __name__ == "__main__":
    signals.listen_for_end()

import argparse
import sys
from collections.abc import Sequence

from vidtron.config.arguments import COUNT, SECONDS, number_in, path_name, tar_words
from vidtron.config.data import DataConfig
from vidtron.config.folders import folder_error
from vidtron.config.ranges import Range, field_range, shown
from vidtron.data.building.build_state import BuildError
from vidtron.data.building.clip_source import SourceError
from vidtron.data.building.shard_file import StoredCodec
from vidtron.data.building.shard_writer import BuildOptions, build
from vidtron.data.building.terminal import TerminalProgress, add_index_arguments, report
from vidtron.data.building.transcode import Edit


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--input",
        type=tar_words,
        nargs="+",
        required=True,
        metavar="CLIPS",
        help="folder of clips, or a table; or tars, of which there may be several, as webdataset names them. The "
        "command behind pipe: is run by a shell",
    )
    parser.add_argument("--output", type=path_name, required=True, metavar="SHARDS", help="new folder for the shards")
    cut = parser.add_argument_group("trimming")
    cut.add_argument(
        "--start",
        type=number_in(float, Range(0, 1_000_000)),
        default=0.0,
        metavar="S",
        help="leave out the first S seconds of each clip",
    )
    cut.add_argument(
        "--max-seconds", type=number_in(float, SECONDS), metavar="S", help="keep at most S seconds of each clip"
    )
    cut.add_argument(
        "--cut-seconds",
        type=number_in(float, SECONDS),
        metavar="S",
        help="cut each clip into pieces of S seconds, each a sample with its caption; a shorter rest is left out",
    )
    picture = parser.add_argument_group("picture")
    picture.add_argument(
        "--height",
        type=number_in(int, field_range(DataConfig, "height")),
        metavar="PIXELS",
        help="make clips smaller until they just cover height x width; never larger",
    )
    picture.add_argument(
        "--width",
        type=number_in(int, field_range(DataConfig, "width")),
        metavar="PIXELS",
        help="see --height; one of the two is enough",
    )
    picture.add_argument(
        "--fps",
        type=number_in(float, field_range(DataConfig, "fps")),
        metavar="N",
        help="keep N frames a second, by their time stamps",
    )
    picture.add_argument(
        "--codec",
        choices=("auto", "copy", "vp9", "h264", "mjpeg"),
        default="auto",
        help="how clips are stored; one that needs no change and has this codec already is copied. copy: as they are. "
        "auto: on a machine with a GPU copy, or h264 where something changes; without one vp9, which DALI decodes on "
        "CPUs as well (default: auto)",
    )
    writing = parser.add_argument_group("writing")
    writing.add_argument(
        "--samples-per-shard",
        type=number_in(int, COUNT),
        default=256,
        metavar="N",
        help="clips in a tar (default: 256)",
    )
    add_index_arguments(parser)
    return parser.parse_args(argv)


def chosen_codec(codec: str, changes: bool) -> StoredCodec:
    """The codec that clips are stored in; `auto` is decided by what this machine can encode."""
    if codec != "auto":
        return codec  # type: ignore[return-value]
    import torch

    if torch.cuda.is_available():
        return "h264" if changes else "copy"
    return "vp9"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 for skipped clips under --strict, 2 for arguments that cannot be used, 130 for Ctrl-C."""
    arguments = parse(argv)
    edit = Edit(arguments.start, arguments.max_seconds, arguments.height, arguments.width, arguments.fps)
    options = BuildOptions(
        source=tuple(arguments.input),
        output=arguments.output,
        codec=chosen_codec(arguments.codec, edit.changes() or arguments.cut_seconds is not None),
        edit=edit,
        cut_seconds=arguments.cut_seconds,
        samples_per_shard=arguments.samples_per_shard,
        workers=arguments.workers,
        tokenizer=arguments.tokenizer,
        scores=tuple(arguments.scores),
        caption_key=arguments.caption_key,
    )
    problem = folder_error(options.output)
    if problem is not None:
        print(f"error: --output {shown(str(options.output))}: {problem}", file=sys.stderr)
        return 2
    progress = TerminalProgress()
    try:
        result = build(options, progress)
    except (BuildError, SourceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        progress.close()
    if result.already_complete:
        print(f"{arguments.output} was complete already")
    report(arguments.output, result.samples, result.shards, len(result.skipped), len(result.flawed))
    if result.left_over_seconds >= 0.05:
        print(f"{result.left_over_seconds:.1f} seconds at the ends of clips were too short for a piece")
    return 1 if arguments.strict and result.skipped else 0


if __name__ == "__main__":
    signals.run_tool(main, "the same command goes on from the last finished shard")

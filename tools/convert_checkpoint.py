"""Convert weights between SAT, diffusers and megatron-core's format (vidtron's own).

    python tools/convert_checkpoint.py --load-format sat --load CogVideoX-5b-sat/transformer \
        --save-format diffusers --save CogVideoX-5b/transformer --verify

What is written, and what to know about the formats: docs/checkpoints.md. Exits with status 2 where it refuses.
"""

from vidtron.config import signals

if __name__ == "__main__":
    signals.listen_for_end()

import argparse
import sys
from collections.abc import Sequence

from tqdm import tqdm

from vidtron.checkpoint import convert
from vidtron.checkpoint.formats import formats
from vidtron.checkpoint.formats.base import DTYPES
from vidtron.checkpoint.formats.sat import SAT
from vidtron.checkpoint.lora_source import LORA_MODES
from vidtron.config.arguments import number_in, path_name
from vidtron.config.errors import exit_with
from vidtron.config.folders import folder_error
from vidtron.config.lora import AdaptationConfig
from vidtron.config.ranges import Range, field_range, shown
from vidtron.models.registry import preset_names, with_plugins


def parser() -> argparse.ArgumentParser:
    """The command line, with the formats and presets of the families that are known by now."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--load-format", choices=tuple(formats()), required=True)
    p.add_argument("--load", type=path_name, required=True, metavar="PATH", help="the checkpoint")
    p.add_argument("--save-format", choices=tuple(formats()), required=True)
    p.add_argument(
        "--save", type=path_name, required=True, metavar="PATH", help="a new folder, or file where the format is one"
    )
    p.add_argument("--model", choices=preset_names(), metavar="PRESET", help="where nothing else tells the network")
    p.add_argument("--dtype", choices=tuple(DTYPES), help="unset: each tensor keeps its type")
    p.add_argument(
        "--ema",
        nargs="?",
        const=True,
        default=False,
        metavar="AVERAGE",
        help="averages of the weights instead of them; a name where the checkpoint has several",
    )
    p.add_argument("--lora", choices=LORA_MODES, default="merge", help="what becomes of LoRA adapters in --load")
    p.add_argument(
        "--lora-base", type=path_name, metavar="PATH", help="base weights of adapters alone, if they have moved"
    )
    p.add_argument(
        "--lora-alpha",
        type=number_in(float, field_range(AdaptationConfig, "lora_alpha")),
        metavar="ALPHA",
        help="of the adapters, where --load tells it wrong",
    )
    p.add_argument("--verify", action="store_true", help="read back, compare bit for bit, run both networks")
    p.add_argument(
        "--sat-model-parallel-size",
        type=number_in(int, Range(1, 4096)),
        default=1,
        metavar="N",
        help="ranks a SAT target is for",
    )
    p.add_argument(
        "--sat-version", choices=SAT.versions, help="upstream's code a SAT target is for; unset: the network's"
    )
    p.add_argument("--overwrite", action="store_true", help="replace an existing target")
    p.add_argument(
        "--verify-checkpoint",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="megatron: compare the files of --load with their checksums before",
    )
    p.add_argument("--trust-pickle", action="store_true", help="open .pt files that could run code")
    return p


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and convert. Exits with status 2 where that is refused."""
    words = with_plugins(sys.argv[1:] if argv is None else argv)
    arguments = parser().parse_args(words)

    problem = folder_error(arguments.save.parent)
    if problem is not None:
        exit_with([f"--save {shown(str(arguments.save))}: {problem}"], 0)

    def progress(names: list[str]) -> tqdm:
        return tqdm(names, unit="tensor", disable=not sys.stderr.isatty())

    def warn(warning: str) -> None:
        print(f"warning: {warning}", file=sys.stderr)

    try:
        result = convert(**vars(arguments), progress=progress, warn=warn)
    except OSError as error:
        place = "" if error.filename is None else f"{error.filename}: "
        exit_with([f"{place}{error.strerror}" if error.strerror else str(error)], 0)
    except ValueError as error:  # and ConversionError
        exit_with(str(error).splitlines(), 0)
    for note in result.notes:
        print(f"note: {note}")
    if result.verification is not None:
        print("\n".join(result.verification.lines))
    print(f"{arguments.save}: {result.model}, {result.tensors:,} tensors, {result.parameters:,} parameters")


if __name__ == "__main__":
    signals.run_tool(main, "nothing was written")

"""A page to look at a dataset: one HTML file with figures, histograms and sampled clips of folders of shards.

    python tools/report_dataset.py --data-path SHARDS --output report.html
    python tools/report_dataset.py --data-path SHARDS --output report.html --model cogvideox-2b --bucket-config FILE

The file needs no network and no other file. With --model it also shows what an epoch would use: by the buckets of
--bucket-config, or at the run's one size; all flags of pretrain_video.py count (--num-frames, --fps, ...). Clips on
the page are filtered by its link as well: report.html#q=cat&min_score_aesthetic=5&sort=duration.
"""

from vidtron.config import signals

if __name__ == "__main__":
    signals.listen_for_end()

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial

from tqdm import tqdm

from vidtron.config.arguments import MOST_WORKERS, location, number_in, path_name
from vidtron.config.cli import parse as parse_run
from vidtron.config.folders import folder_error
from vidtron.config.ranges import Range, field_range, refusals, shown
from vidtron.config.training import TrainingConfig
from vidtron.data.checks_numbers import check_numbers
from vidtron.data.planning.blend import split_weights
from vidtron.data.planning.plan import Plan
from vidtron.data.report.assemble import assemble
from vidtron.data.report.page import page
from vidtron.data.report.tables import ScoreTable
from vidtron.data.shards.index import ShardIndex
from vidtron.data.shards.shard_cache import ShardCache
from vidtron.models.registry import family_of, preset, preset_names, with_plugins
from vidtron.recipe.choices import choices


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The command line, and the flags of the run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--data-path",
        type=location,
        nargs="+",
        required=True,
        metavar="SHARDS",
        help="folders, or URLs, with or without weights",
    )
    parser.add_argument("--output", type=path_name, required=True, metavar="FILE", help="the page; is overwritten")
    parser.add_argument(
        "--samples",
        type=number_in(int, Range(0, 1_000_000)),
        default=200,
        metavar="N",
        help="clips shown, at most (default: 200)",
    )
    parser.add_argument(
        "--seed",
        type=number_in(int, field_range(TrainingConfig, "seed")),
        default=0,
        help="of the choice of these, and of the run (default: 0)",
    )
    parser.add_argument(
        "--table",
        type=path_name,
        metavar="PARQUET",
        help="curation table whose numbers are shown as well, by key or path",
    )
    parser.add_argument("--model", choices=preset_names(), help="preset of the run whose buckets or size are shown")
    parser.add_argument(
        "--workers",
        type=number_in(int, MOST_WORKERS),
        default=os.cpu_count() or 1,
        metavar="N",
        help="decoding threads (default: CPUs)",
    )
    arguments, run_flags = parser.parse_known_args(argv)
    if arguments.output.suffix not in (".html", ".htm"):
        parser.error(f"--output {arguments.output}: accepted: a file name that ends in .html")
    problem = folder_error(arguments.output.parent)
    if problem is not None:
        parser.error(f"--output {shown(str(arguments.output))}: {problem}")
    if run_flags and arguments.model is None:
        parser.error(f"{' '.join(run_flags)}: accepted with --model, whose run they belong to")
    return arguments, run_flags


def opened(arguments: argparse.Namespace, run_flags: list[str]) -> tuple[ShardIndex, Plan | None]:
    """The index, and the plan of the run that --model and its flags stand for.

    Raises:
        ValueError: shards, flags or buckets that cannot be used; a line for each mistake.
    """
    folders, weights = split_weights(arguments.data_path)
    if arguments.model is None:
        return ShardIndex.open(folders), None
    from vidtron.training import clip_fit  # late: brings megatron-core

    given = ["--model", arguments.model, "--seed", str(arguments.seed), *run_flags]
    run = parse_run(given, preset, preset_names(), prog="report_dataset.py", choices=choices())
    errors = [*(refusal.message for refusal in refusals(run)), *check_numbers(run)]
    if errors:
        raise ValueError("\n".join(dict.fromkeys(errors)))
    index = ShardIndex.open(folders, ShardCache.from_config(run.data))
    fit = clip_fit(family_of(run.model), run)
    return index, Plan.from_config(index, run.data, run.training.seed, fit, weights=weights)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 for arguments or shards that cannot be used."""
    arguments, run_flags = parse(with_plugins(sys.argv[1:] if argv is None else argv))
    try:
        index, plan = opened(arguments, run_flags)
        table = None if arguments.table is None else ScoreTable(arguments.table)
    except ValueError as error:
        print(*(f"error: {line}" for line in str(error).splitlines()), sep="\n", file=sys.stderr)
        return 2
    progress = partial(tqdm, unit="clip", disable=None)
    report = assemble(
        index,
        plan=plan,
        table=table,
        samples=arguments.samples,
        seed=arguments.seed,
        workers=arguments.workers,
        progress=progress,
    )
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    # A folder's name may hold what is no UTF-8.
    arguments.output.write_text(page(report), encoding="utf-8", errors="replace")
    print(f"{arguments.output}: {len(index):,} samples, {len(report.cards)} of them shown")
    return 0


if __name__ == "__main__":
    signals.run_tool(main, "nothing was written")

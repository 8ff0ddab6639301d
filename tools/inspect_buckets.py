"""What a bucket configuration does to shards, before anything is trained.

    python tools/inspect_buckets.py --model cogvideox-5b --data-path SHARDS --bucket-config buckets.yaml

Takes all flags of pretrain_video.py (those of the data and of the model matter), and of its own
    --epochs N      look at the first N epochs (default: 1)
    --ratios        a line for each aspect ratio
    --plot FILE     also draw it, as .svg or .html
Columns: samples that find a bucket; batches; samples left over at the end of epochs; the bucket's share of all tokens;
cost of a step in FLOPs over the mean of all steps; share of the pictures that is cropped; share of the frames that
short clips do not have and are repeated.
"""

from vidtron.config import signals

if __name__ == "__main__":
    signals.listen_for_end()

import argparse
import sys
from collections.abc import Sequence
from html import escape
from itertools import groupby

from vidtron import training
from vidtron.config.arguments import number_in, path_name
from vidtron.config.cli import parse
from vidtron.config.errors import refuse
from vidtron.config.folders import folder_error
from vidtron.config.ranges import Range, refusals, shown
from vidtron.config.run import RunConfig
from vidtron.config.world import World
from vidtron.data.checks_numbers import check_numbers
from vidtron.data.planning.blend import split_weights
from vidtron.data.planning.buckets_statistics import BucketStatistics, merged, spread, statistics_of
from vidtron.data.planning.plan import Plan
from vidtron.data.report.html import document
from vidtron.data.shards.index import ShardIndex
from vidtron.data.shards.shard_cache import ShardCache
from vidtron.models.registry import family_of, preset, preset_names, with_plugins
from vidtron.recipe.choices import choices


def main(argv: Sequence[str]) -> None:
    """Print the table. Exits with status 2 where the configuration is refused."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--epochs", type=number_in(int, Range(1, 10_000)), default=1)
    parser.add_argument("--ratios", action="store_true")
    parser.add_argument("--plot", type=path_name)
    own, rest = parser.parse_known_args(with_plugins(argv))
    if "--help" in rest or "-h" in rest:
        print(__doc__)
        return
    config = parse(rest, preset, preset_names(), "inspect_buckets.py", choices=choices())
    errors = list(dict.fromkeys([*(refusal.message for refusal in refusals(config)), *check_numbers(config)]))
    if config.data.bucket_config is None:
        errors.append("--bucket-config: missing; accepted: a YAML file")
    if own.plot is not None and own.plot.suffix not in (".svg", ".html"):
        errors.append(f"--plot {own.plot}: accepted: a file ending in .svg or .html")
    problem = folder_error(own.plot.parent) if own.plot is not None else None
    if problem is not None:
        errors.append(f"--plot {shown(str(own.plot))}: {problem}")
    world = World(size=1, rank=0, local_rank=0, has_cuda=False)
    refuse(errors, world)
    try:
        plan = plan_of(config)
    except ValueError as error:
        refuse(str(error).splitlines(), world)
        raise
    each = statistics_of(plan, config.data, own.epochs)
    groups = [merged(group) for _, group in groupby(each, lambda one: one.buckets[0].name.rpartition("-")[0])]
    print("\n".join(table(each if own.ratios else groups, each)))
    print("\n".join(summary(plan, each, own.epochs)))
    if own.plot is not None:
        drawing = svg(groups, each)
        if own.plot.suffix == ".html":
            drawing = document("Buckets", drawing)
        own.plot.write_text(drawing, encoding="utf-8")


def plan_of(config: RunConfig) -> Plan:
    """The plan of a run.

    Raises:
        ValueError: with a message for each mistake.
    """
    paths, weights = split_weights(config.data.data_path)
    fit = training.clip_fit(family_of(config.model), config)
    index = ShardIndex.open(paths, ShardCache.from_config(config.data))
    return Plan.from_config(index, config.data, config.training.seed, fit, weights=weights)


def table(lines: Sequence[BucketStatistics], each: Sequence[BucketStatistics]) -> list[str]:
    """Lines of a table: one for each bucket that some clip finds."""
    width = max([6, *(len(one.name) for one in lines)])
    head = f"{'bucket':{width}} {'height x width':>19} {'batch':>9} {'samples':>11} {'batches':>9} {'left over':>9}"
    text = [head + f" {'tokens':>7} {'step cost':>11} {'cropped':>8} {'repeated':>8}"]
    tokens = sum(one.tokens for one in each)
    mean = spread(each)[0] if tokens else 1.0
    for one in lines:
        if not one.samples:
            continue
        heights, widths = ([bucket.size[axis] for bucket in one.buckets] for axis in (1, 2))
        batches = [bucket.batch_size or 1 for bucket in one.buckets]
        shape = f"{_range(heights)} x {_range(widths)}"
        costs = "-" if not one.step_flops else _range([f"{cost / mean:.2f}" for cost in one.step_flops])
        text.append(
            f"{one.name:{width}} {shape:>19} {_range(batches):>9} {one.samples:11,} {one.batches:9,} "
            f"{one.left_over:9,} {one.tokens / max(1, tokens):7.1%} {costs:>11} {one.cut / one.samples:8.1%} "
            f"{one.padded / one.samples:8.1%}"
        )
    return text


def summary(plan: Plan, each: Sequence[BucketStatistics], epochs: int) -> list[str]:
    """Totals, what is left out, and warnings."""
    reports = [plan.epoch_report(epoch) for epoch in range(epochs)]
    total = sum(report.samples for report in reports)
    used = sum(report.used for report in reports)
    steps = sum(report.batches for report in reports)
    text = [f"{epochs} epochs: {total:,} samples, {used:,} used ({used / total:.1%}) in {steps:,} steps"]
    if steps:
        deviation = spread(each)[1]
        mean = spread(each)[0]
        costs = [cost / mean for one in each for cost in one.step_flops]
        text.append(
            f"a step costs {min(costs):.2f} to {max(costs):.2f} times the mean of {mean / 1e12:.3g} TFLOPs; standard "
            f"deviation {deviation:.0%}"
        )
    for reason in dict.fromkeys(reason for report in reports for reason in report.dropped):
        count = sum(report.dropped.get(reason, 0) for report in reports)
        text.append(f"left out: {count:,} ({count / total:.1%}) {reason}")
    left = sum(report.left_over for report in reports)
    text.append(f"left over at the end of epochs: {left:,} ({left / total:.1%})")
    text += [f"error: {message}" for message in plan.errors()]
    return text + [f"warning: {message}" for message in plan.warnings() if "clips are left out" not in message]


ROW, BAR, LEFT = 22, 300, 130
INK, USED, OVER, COST = "#222222", "#3b6ea8", "#c9d6e6", "#c77f2a"


def svg(groups: Sequence[BucketStatistics], each: Sequence[BucketStatistics]) -> str:
    """Two bars for each resolution and number of frames: its samples, and what its steps cost."""
    lines = [one for one in groups if one.samples]
    mean = spread(each)[0] if any(one.batches for one in each) else 1.0
    most = max([1, *(one.samples for one in lines)])
    dearest = max([1.0, *(cost / mean for one in lines for cost in one.step_flops)])
    right = LEFT + BAR + 90
    width, height = right + BAR + 110, 60 + ROW * max(1, len(lines))

    def text(x: float, y: float, content: str, anchor: str = "start", weight: str = "normal") -> str:
        style = f'text-anchor="{anchor}" font-weight="{weight}" stroke-width="3"'
        return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(content)}</text>'

    def bar(x: float, y: float, length: float, colour: str) -> str:
        return f'<rect x="{x:.1f}" y="{y + 4:.1f}" width="{max(0.0, length):.1f}" height="{ROW - 8}" fill="{colour}"/>'

    parts = [
        text(LEFT, 20, "samples (light: left over)", weight="bold"),
        text(right, 20, "cost of a step over the mean, by aspect ratio", weight="bold"),
    ]
    for number, one in enumerate(lines):
        y = 36 + number * ROW
        scale = BAR / most
        used = (one.samples - one.left_over) * scale
        parts += [text(LEFT - 8, y + 15, one.name, "end"), bar(LEFT, y, used, USED)]
        parts += [bar(LEFT + used, y, one.left_over * scale, OVER)]
        parts.append(text(LEFT + one.samples * scale + 6, y + 15, f"{one.samples:,}"))
        costs = [cost / mean for cost in one.step_flops]
        if costs:
            scale = BAR / dearest
            low, high = min(costs) * scale, max(costs) * scale
            parts += [bar(right, y, low, COST), bar(right + low, y, high - low, "#ecd0a9")]
            parts.append(text(right + high + 6, y + 15, _range([f"{cost:.2f}" for cost in costs])))
        else:
            parts.append(text(right + 6, y + 15, "no whole batch"))
    x = right + BAR / dearest
    line = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="30" y2="{height - 16}" stroke="{INK}" stroke-width="1" '
    line += 'stroke-dasharray="3 3"/>'
    # Letters have a white rim, so that lines behind them do not blur them.
    style = f'font-family="system-ui, sans-serif" font-size="13" fill="{INK}" paint-order="stroke"'
    style += ' stroke="white" stroke-width="0"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" {style}>'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', line, *parts, "</svg>", ""])


def _range(values: Sequence[int] | Sequence[str]) -> str:
    """The smallest and the largest, or the only one."""
    low, high = min(values, key=float), max(values, key=float)
    return str(low) if low == high else f"{low}-{high}"


if __name__ == "__main__":
    signals.run_tool(lambda: main(sys.argv[1:]), "nothing was written")

r"""Train a few steps under several layouts and compare what they computed, tensor by tensor.

    python tools/compare_layouts.py --layouts TP2+SP CP2 PP2 DP2 TP2+SP+PP2 --steps 3 \
        --model cogvideox-tiny --data-path SHARDS --global-batch-size 4

Takes all flags of pretrain_video.py, best those of the run in question, and of its own
    --layouts L [L ...]    what to compare: parts joined by +, as TP2+SP+PP2. TPn: tensor parallel; SP: sequence
                           parallel beside it; PPn: pipeline stages; VPPn: model chunks of each stage (interleaved
                           schedule); CPn: context parallel, with a2a or all_gather the exchange; DPn: data parallel
    --reference L          what each is held against (default: DP1, one rank)
    --steps N              optimizer steps (default: 3)
    --tolerance F          accept F times as much as is accepted by default (default: 1)
    --no-hidden-states     leave the outputs of the layers out: less to write
    --keep FOLDER          leave configurations, logs and recordings there
It starts the ranks itself, with torchrun, one layout after another; on a machine with GPUs each rank has one.

Weights, data, batch, precision, clipping and optimizer are those of the flags. Every random number of a sample is a
function of --seed and the sample's place in the run, so that all layouts see the same clips, noise and dropout. The
layout's flags are set by the layouts; without --global-batch-size the smallest one that all can divide is taken.
Nothing is saved or evaluated: --save, --eval-interval and their like are left out, and named.

Compared are, in the order of computation: the weights at the start; of each step the tokens that enter the layers, the
output of each layer and of the network for each sample; the loss; the gradient of each weight before clipping; the
gradient norm; each weight after the update (with --bf16 the optimizer's fp32 ones). A difference is told relative to
the reference: its norm over the tensor's, or for weights over that of the tensor's updates.

Each rank writes what it holds to files, fp32: for one step 8 bytes for each trained weight, and the hidden states of
the samples. The reference's and one layout's are on disk at a time, below $TMPDIR, unless --keep is given.

Exit status: 0 all within the bands; 1 not, or a layout did not run: the first tensor that differs is named, and where
it was made; 2 refused.
"""

from vidtron.config import signals

if __name__ == "__main__":
    signals.listen_for_end()

import argparse
import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from vidtron import training
from vidtron.config.arguments import number_in, path_name
from vidtron.config.cli import parse, plugins_in
from vidtron.config.errors import ConfigurationError, refuse
from vidtron.config.folders import folder_error
from vidtron.config.ranges import Range, shown
from vidtron.config.run import RunConfig
from vidtron.config.world import World
from vidtron.models.registry import preset, preset_names, with_plugins
from vidtron.recipe.choices import choices
from vidtron.training.comparison import report
from vidtron.training.comparison.layouts import Layout
from vidtron.training.comparison.recorder import Recorder
from vidtron.training.comparison.runs import (
    FailedRunError,
    layout_errors,
    run_layout,
    with_common_batch,
    without_files,
)

ONE_RANK = "DP1"


def main(argv: Sequence[str]) -> int:
    """Compare; the exit status. Exits with status 2 where the configuration is refused."""
    parser = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, usage="compare_layouts.py --layouts L [L ...] ... (--help)"
    )
    parser.add_argument("--layouts", nargs="+", default=[])
    parser.add_argument("--reference", default=ONE_RANK)
    parser.add_argument("--steps", type=number_in(int, Range(1, 1000)), default=3)
    parser.add_argument("--tolerance", type=number_in(float, Range(0, 1000, above=True)), default=1.0)
    parser.add_argument("--no-hidden-states", action="store_true")
    parser.add_argument("--keep", type=path_name)
    parser.add_argument("--record", type=path_name)  # what this program starts itself under torchrun
    plugins = plugins_in(argv)
    own, rest = parser.parse_known_args(with_plugins(argv))
    if "--help" in rest or "-h" in rest:
        print(__doc__)
        return 0
    config = parse(rest, preset, preset_names(), "compare_layouts.py", choices=choices())
    if own.record is not None:
        record(config, own.record, own.steps, hidden_states=not own.no_hidden_states)
        return 0

    errors = [] if own.layouts else ["--layouts: missing; accepted: one or more, as TP2+SP CP2"]
    layouts: dict[str, Layout] = {}
    for flag, name in (("--reference", own.reference), *(("--layouts", name) for name in own.layouts)):
        try:
            layouts[name] = Layout.parse(name)
        except ValueError as error:
            errors.append(f"{flag} {shown(name)}: {error}")
    if own.reference in own.layouts:
        errors.append(f"--layouts {shown(own.reference)}: that is the reference; accepted: others, or a --reference")
    problem = folder_error(own.keep) if own.keep is not None else None
    if problem is not None:
        errors.append(f"--keep {shown(str(own.keep))}: {problem}")
    world = World.of_launcher()
    refuse(errors, world)
    config, left_out = without_files(config)
    config = with_common_batch(config, list(layouts.values()))
    config.training.train_iters = max(config.training.train_iters, own.steps)
    devices = torch.cuda.device_count() if world.has_cuda else 0
    for name, layout in layouts.items():
        flag = "--reference" if name == own.reference else "--layouts"
        errors += layout_errors(flag, layout, config, world, devices)
    refuse(errors, world)
    if left_out:
        print(f"left out: {', '.join(left_out)}")
    bands = report.bands_of(bf16=config.precision.bf16, factor=own.tolerance)
    command = [__file__, "--steps", str(own.steps), *(["--no-hidden-states"] if own.no_hidden_states else [])]
    command += ["--plugin", *plugins] if plugins else []
    with workplace(own.keep) as folder:
        rows = []
        for name, layout in layouts.items():
            start = time.monotonic()
            place = folder / name
            try:
                run_layout(layout, config, place, [*command, "--record", str(place / report.TENSORS)])
            except FailedRunError as error:
                print(error, file=sys.stderr, flush=True)
                if name == own.reference:
                    return 1
                rows.append(report.Row(layout, None))
                continue
            print(f"{name}: {own.steps} steps on {layout.ranks} ranks, {time.monotonic() - start:.0f} s", flush=True)
            if name != own.reference:
                rows.append(report.compared(layout, folder / own.reference, place, bands))
                if own.keep is None:
                    shutil.rmtree(place)
        print("\n".join(report.page(layouts[own.reference], rows, bands)))
    return 0 if rows and all(row.is_accepted for row in rows) else 1


def record(config: RunConfig, folder: Path, steps: int, *, hidden_states: bool) -> None:
    """Be one rank of a layout: train as pretrain_video.py does, and write down what was computed."""
    world = World.of_launcher()
    try:
        training.run(config, world, Recorder(folder, steps, hidden_states=hidden_states))
    except ConfigurationError as error:
        refuse(error.errors, world)


@contextlib.contextmanager
def workplace(keep: Path | None) -> Iterator[Path]:
    """A folder for the recordings; gone afterwards unless it was named."""
    if keep is not None:
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="compare_layouts_") as folder:
        yield Path(folder)


if __name__ == "__main__":
    signals.run_tool(lambda: main(sys.argv[1:]), "nothing was compared to its end")

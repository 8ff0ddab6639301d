"""Saving and loading a checkpoint with checksums, beside the same without.

    python benchmarks/checkpoint_checksums.py --folder SCRATCH [--rounds 5]

The two take turns, so that what else the machine does meets both. Without checksums nothing is hashed, no
`checksums.json` is written, no weight is looked at, and torch.save computes its CRC-32 of everything, as it does
unless it is told otherwise. SCRATCH needs 5 GB for the default size.
"""

import argparse
import contextlib
import dataclasses
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import torch
from common import FAMILY, SyntheticBatch, describe_machine, forward_backward, launch, run_config
from megatron.core.dist_checkpointing.strategies import filesystem_async

from vidtron import checkpoint
from vidtron.checkpoint import engine
from vidtron.config.world import World
from vidtron.models.cogvideox.config import CogVideoXConfig
from vidtron.models.registry import family_of
from vidtron.parallel import initialized
from vidtron.training.assembly import TrainedModel, assemble

CLIP = {"frames": 9, "height": 32, "width": 32}


def network(layers: int) -> CogVideoXConfig:
    """19 million parameters a layer, each 12 bytes of a checkpoint: the weight and Adam's two moments in fp32."""
    return CogVideoXConfig(
        num_layers=layers, hidden_size=1024, num_attention_heads=16, time_embed_dim=512, text_length=16,
        text_width=64, position="rotary",
    )  # fmt: skip


@contextlib.contextmanager
def without_checksums() -> Iterator[None]:
    """Saves as they were before there were any."""
    with (
        mock.patch.object(filesystem_async, "open", open, create=True),
        mock.patch.object(engine.manifest, "write"),
        mock.patch.object(engine, "nonfinite_weights", return_value=[]),
    ):
        yield


def drop_from_cache(folder: Path) -> None:
    """The next read comes from the disk."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@dataclasses.dataclass(frozen=True)
class Spent:
    """Seconds of the clock, and of all processors that worked for this process."""

    wall: float
    busy: float


def spent(action: Callable[[], object]) -> Spent:
    wall, busy = time.perf_counter(), time.process_time()
    action()
    return Spent(time.perf_counter() - wall, time.process_time() - busy)


Rounds = dict[str, list[tuple[Spent, Spent]]]
"""Kind of work -> without and with checksums, in every round."""


def measure(folder: Path, layers: int, rounds: int) -> tuple[int, Rounds]:
    """Job: bytes of the checkpoint, and times."""
    run = run_config(network(layers), **CLIP)
    path = folder / checkpoint.folder_name(1)
    with initialized(run, World.from_environment()) as groups:

        def assembled() -> TrainedModel:
            return assemble(family_of(FAMILY), run, groups)

        model = assembled()
        forward_backward(model, run, SyntheticBatch.of(run, 1))
        model.update(model.gradient_norm())  # moments that are not zero
        writer = checkpoint.CheckpointWriter(folder, groups, config_yaml="{}\n")

        def save(checked: bool) -> Spent:
            shutil.rmtree(path, ignore_errors=True)
            os.sync()
            with contextlib.nullcontext() if checked else without_checksums():
                return spent(lambda: writer.save(1, model.modules, model.optimizer, model.scheduler, {}))

        def load(checked: bool) -> None:
            if checked and (errors := checkpoint.shared_inspect(path, groups).damage):
                raise SystemExit("\n".join(errors))
            checkpoint.load(path, model.modules, model.optimizer, model.scheduler, groups)

        def resume(checked: bool) -> None:
            """As a run does it: the files are read while the model is built."""
            with checkpoint.Search(path, groups, verify=checked) as search:
                new = assembled()
                choice = search.choice()
            assert choice.path is not None, choice.errors
            checkpoint.load(choice.path, new.modules, new.optimizer, new.scheduler, groups)

        def from_disk(checked: bool) -> Spent:
            drop_from_cache(path)
            return spent(lambda: resume(checked))

        works: dict[str, Callable[[bool], Spent]] = {
            "saving": save,
            "building a model and loading": lambda checked: spent(lambda: resume(checked)),
            "the same, from disk": from_disk,
            "loading, verified before": lambda checked: spent(lambda: load(checked)),
        }
        times: Rounds = {name: [] for name in works}
        save(True)
        load(True)  # the first of each allocates
        for number in range(rounds):
            for name, work in works.items():
                order = (False, True) if number % 2 else (True, False)
                pair = {checked: work(checked) for checked in order}
                times[name].append((pair[False], pair[True]))
                print(f"{name}: {pair[False]} {pair[True]}", file=sys.stderr, flush=True)
                if name == "saving":
                    save(True)  # for the loads
        return sum(file.stat().st_size for file in path.iterdir()), times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="scratch space")
    parser.add_argument("--layers", type=int, default=9, help="9: 2 GB")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    scratch = arguments.folder / "checksums-benchmark"
    load_before = os.getloadavg()
    try:
        size, times = launch(measure, 1, scratch, arguments.layers, arguments.rounds)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print("# Checksums of a checkpoint\n")
    print(f"`python benchmarks/checkpoint_checksums.py --folder SCRATCH --rounds {arguments.rounds}`\n")
    print(describe_machine())
    print(
        f"{size / 1e9:.2f} GB, one rank, {torch.get_num_threads()} threads; median of {arguments.rounds} rounds, in "
        f"which the two took turns;\naverage load before {load_before[0]:.1f}, after {os.getloadavg()[0]:.1f}. "
        "In brackets: seconds of processors.\n"
    )
    print("| | without, s | with, s | with / without | in single rounds |\n| --- | --- | --- | --- | --- |")
    for name, rounds in times.items():
        cells, ratios = [], [with_it.wall / without.wall for without, with_it in rounds]
        for column in zip(*rounds, strict=True):
            wall, busy = (statistics.median(getattr(t, kind) for t in column) for kind in ("wall", "busy"))
            cells.append(f"{wall:.2f} ({busy:.2f})")
        ratio = statistics.median(w.wall for _, w in rounds) / statistics.median(w.wall for w, _ in rounds)
        print(f"| {name} | {' | '.join(cells)} | **{ratio:.3f}** | {min(ratios):.3f} to {max(ratios):.3f} |")


if __name__ == "__main__":
    main()

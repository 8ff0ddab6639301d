"""Saving and loading a checkpoint with checksums, beside the same without.

    python benchmarks/checkpoint_checksums.py --folder SCRATCH [--rounds 5]

The two take turns on the same model, so that what else the machine does meets both. Without checksums nothing is
hashed, no `checksums.json` is written, and no weight is looked at. SCRATCH needs 5 GB for the default size.
"""

import argparse
import contextlib
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
from vidtron.checkpoint import engine, integrity
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


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def measure(folder: Path, layers: int, rounds: int) -> tuple[int, dict[str, list[tuple[float, float]]]]:
    """Job: bytes of the checkpoint; for each kind of work, seconds without and with checksums in every round."""
    run = run_config(network(layers), **CLIP)
    with initialized(run, World.from_environment()) as groups:
        model: TrainedModel = assemble(family_of(FAMILY), run, groups)
        batch = SyntheticBatch.of(run, 1)
        forward_backward(model, run, batch)
        model.update(model.gradient_norm())  # moments that are not zero
        writer = checkpoint.CheckpointWriter(folder, groups, config_yaml="{}\n")
        path = folder / checkpoint.folder_name(1)

        def save() -> None:
            shutil.rmtree(path, ignore_errors=True)
            os.sync()
            nonlocal spent
            spent = seconds(
                lambda: writer.save(1, model.modules, model.optimizer, model.scheduler, {}, model.averages.parts())
            )

        def load() -> None:
            checkpoint.load(path, model.modules, model.optimizer, model.scheduler, groups)

        def checked_load() -> None:
            found = integrity.shared_inspect(path, groups).damage
            if found:
                raise SystemExit("\n".join(found))
            load()

        spent = 0.0
        times: dict[str, list[tuple[float, float]]] = {"saving": [], "loading, cached": [], "loading from disk": []}
        save()  # the first allocates
        load()
        for number in range(rounds):
            pairs: dict[str, list[float]] = {name: [0.0, 0.0] for name in times}
            for checked in (number % 2 == 1, number % 2 == 0):
                with contextlib.nullcontext() if checked else without_checksums():
                    save()
                pairs["saving"][checked] = spent
            save()
            for checked in (number % 2 == 0, number % 2 == 1):
                action = checked_load if checked else load
                pairs["loading, cached"][checked] = seconds(action)
                drop_from_cache(path)
                pairs["loading from disk"][checked] = seconds(action)
            for name, (without, with_checksums) in pairs.items():
                times[name].append((without, with_checksums))
                print(f"{name}: {without:.2f} {with_checksums:.2f}", file=sys.stderr, flush=True)
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
        f"{size / 1e9:.2f} GB, one rank, {torch.get_num_threads()} threads; median of {arguments.rounds} rounds in which"
    )
    print(f"the two took turns; average load before {load_before[0]:.1f}, after {os.getloadavg()[0]:.1f}\n")
    print("| | without, s | with, s | with / without | in single rounds |\n| --- | --- | --- | --- | --- |")
    for name, pairs in times.items():
        without, with_checksums = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratios = [b / a for a, b in pairs]
        print(
            f"| {name} | {without:.2f} | {with_checksums:.2f} | **{statistics.median(ratios):.3f}** | "
            f"{min(ratios):.3f} to {max(ratios):.3f} |"
        )


if __name__ == "__main__":
    main()

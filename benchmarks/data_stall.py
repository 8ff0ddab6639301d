"""How long training stands still for its data, with and without working ahead.

    OMP_NUM_THREADS=1 python benchmarks/data_stall.py

Runs of the real trainer on one rank over the same clips, in turns: decoding and encoding between the steps; decoding
in worker processes ahead of the steps; encoding ahead as well. Of each step the trainer logs how long it stood still
for its batch (`stall_seconds`) and how long it took. The first steps, in which everything starts, are left out.
"""

import argparse
import contextlib
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import av
import numpy as np
from common import describe_machine, run_config

from vidtron import training
from vidtron.config.world import World
from vidtron.data.building.shard_writer import BuildOptions, build
from vidtron.models.cogvideox.config import CogVideoXConfig

NETWORK = CogVideoXConfig(
    num_layers=2, hidden_size=128, num_attention_heads=2, time_embed_dim=128, text_length=32, text_width=64,
    position="rotary",
)  # fmt: skip
CLIP = {"frames": 17, "height": 96, "width": 160}
SOURCE = (48, 360, 640)
"""Frames, height and width of the clips that are decoded."""
WARM_UP = 3
CASES: dict[str, dict[str, Any]] = {
    "nothing ahead": {"num_workers": 0, "encode_ahead": 0},
    "decoding ahead, 1 worker": {"num_workers": 1, "encode_ahead": 0},
    "decoding and encoding ahead, 1 worker": {"num_workers": 1, "encode_ahead": 1},
    "decoding and encoding ahead, 2 workers": {"num_workers": 2, "encode_ahead": 1},
}


def write_clip(path: Path, seed: int) -> None:
    """Write a video of moving smooth noise, H.264."""
    frames, height, width = SOURCE
    small = np.random.default_rng(seed).random((height // 40, width // 40 + frames, 3))
    large = (np.kron(small, np.ones((40, 40, 1))) * 255).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(frames):
            image = np.ascontiguousarray(large[:, 8 * number : 8 * number + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def make_shards(folder: Path, clips: int) -> Path:
    """A folder of shards of synthetic clips."""
    (source := folder / "clips").mkdir()
    for number in range(clips):
        write_clip(source / f"{number:03d}.mp4", number)
        (source / f"{number:03d}.txt").write_text(f"moving noise {number}")
    build(BuildOptions(source, folder / "shards", "copy"))
    return folder / "shards"


def measured(shards: Path, folder: Path, steps: int, batch: int, flags: dict[str, Any]) -> tuple[float, float]:
    """(share of the time stood still, seconds of a step) of one run."""
    run = run_config(NETWORK, **CLIP)
    run.data.data_path, run.data.decoder = [str(shards)], "pyav"
    run.training.train_iters, run.training.global_batch_size = steps + WARM_UP, batch
    run.training.micro_batch_size = batch
    run.checkpoint.save, run.logging.tensorboard = folder, False
    for name, value in flags.items():
        setattr(run.data if hasattr(run.data, name) else run.encoders, name, value)
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        training.run(run, World.from_environment())
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["kind"] == "train"][WARM_UP:]
    seconds = sum(row["step_seconds"] for row in rows)
    return sum(row["stall_seconds"] for row in rows) / seconds, seconds / len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in CASES}
    with tempfile.TemporaryDirectory() as name:
        shards = make_shards(Path(name), arguments.clips)
        for number in range(arguments.rounds):
            for case, (label, flags) in enumerate(CASES.items()):
                folder = Path(name) / f"run-{number}-{case}"
                found[label].append(measured(shards, folder, arguments.steps, arguments.batch, flags))
    print("# Standing still for data\n")
    print(describe_machine())
    print(
        f"clips of {SOURCE[0]} frames, {SOURCE[1]} x {SOURCE[2]}, H.264, to {CLIP['frames']} x {CLIP['height']} x "
        f"{CLIP['width']}; batch {arguments.batch}, {arguments.steps} steps, median of {arguments.rounds} runs\n"
    )
    print("| | time stood still | seconds of a step | of the first line |")
    print("| --- | --- | --- | --- |")
    base = statistics.median(seconds for _, seconds in found["nothing ahead"])
    for label, pairs in found.items():
        stall, seconds = (statistics.median(values) for values in zip(*pairs, strict=True))
        print(f"| {label} | {100 * stall:.0f} % | {seconds:.3f} | {seconds / base:.2f} |")


if __name__ == "__main__":
    main()

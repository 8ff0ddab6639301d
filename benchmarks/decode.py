"""Frames a second: clips from shards into bucketed tensors through `ClipLoader`, beside bare decoding loops.

    python benchmarks/decode.py --clips FOLDER --workers 2
    python benchmarks/decode.py                              # synthetic clips

All read the same windows of the same clips with the same number of processes, one thread each:

- `PyAV loop`: opens each file, decodes, frames of the window to full-size RGB arrays. Nothing is resized, sent to
  another process or put in order: the measure of what the loader costs.
- `PyAV loop, resized`: the same, with `frame.reformat` to the bucket's size.
- `ClipLoader`: shards -> decoding processes -> tensors [T, C, H, W] of the bucket's size, in order, in this process.
- torchcodec and decord where they are installed: full-size RGB arrays.

Prints a Markdown table of medians over rounds that alternate between the methods.
"""

import argparse
import functools
import importlib.util
import multiprocessing
import multiprocessing.pool
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from vidtron.config.data import ClipSize
from vidtron.data.building.shard_writer import BuildOptions, build
from vidtron.data.shards.index import Sample, ShardIndex


@dataclass(frozen=True)
class Window:
    """The frames to be read of a file."""

    path: str
    start: int
    size: ClipSize


def pyav_loop(window: Window, resize: bool = False) -> int:
    """Frames as RGB arrays; how many."""
    count, first = 0, window.start
    with av.open(window.path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        rate = float(stream.average_rate)
        begin = stream.start_time or 0
        if first:
            container.seek(begin + round(first / rate / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            if round(float((frame.pts - begin) * stream.time_base) * rate) < first:
                continue
            size = (window.size.width, window.size.height) if resize else (None, None)
            frame.reformat(*size, format="rgb24", threads=1).to_ndarray()
            count += 1
            if count == window.size.num_frames:
                return count
    raise ValueError(f"{window.path} ends before frame {first + window.size.num_frames}")


def pyav_resized(window: Window) -> int:
    """Number of frames that PyAV decodes and resizes to the bucket's size, without keeping their shape."""
    return pyav_loop(window, resize=True)


def torchcodec(window: Window) -> int:
    """torchcodec's frames of the window."""
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(window.path, num_ffmpeg_threads=1)
    return len(decoder.get_frames_in_range(window.start, window.start + window.size.num_frames).data)


def decord(window: Window) -> int:
    """decord's frames of the window."""
    from decord import VideoReader, cpu

    reader = VideoReader(window.path, ctx=cpu(0), num_threads=1)
    return len(reader.get_batch(range(window.start, window.start + window.size.num_frames)).asnumpy())


class WindowPlan:
    """A plan as the loader asks for it: each position is one window of one sample, in one of several buckets."""

    def __init__(self, index: ShardIndex, windows: list[Window], rows: list[int]) -> None:
        self.index = index
        self._windows = windows
        self._rows = rows

    def slot(self, position: int) -> Any:
        """The window at a position."""
        window = self._windows[position]
        return Planned(position, self._rows[position], PlannedBucket("benchmark", window.size))

    def frames_at(self, planned: Any) -> list[int]:
        """Indices of the window's frames."""
        window = self._windows[planned.position]
        return list(range(window.start, window.start + window.size.num_frames))


@dataclass(frozen=True)
class PlannedBucket:
    """A bucket of the plan: a name and a size."""

    name: str
    size: ClipSize


@dataclass(frozen=True)
class Planned:
    """One position of the plan."""

    position: int
    row: int
    bucket: PlannedBucket


def through_pool(pool: multiprocessing.pool.Pool, read: Callable[[Window], int], windows: list[Window]) -> float:
    """Frames a second that a pool of processes reads."""
    start = time.perf_counter()
    frames = sum(pool.imap_unordered(read, windows))
    return frames / (time.perf_counter() - start)


def through_loader(plan: WindowPlan, windows: int, workers: int, decoder: str) -> float:
    """Frames a second that the loader reads, once its processes are up."""
    from vidtron.data.decoding.decode import ClipDecoder
    from vidtron.data.decoding.loader import ClipLoader

    ahead = 2 * workers
    # As many clips are ahead of the consumer when the clock starts as when it stops.
    positions = [number % windows for number in (*range(-2 * ahead, 0), *range(windows), *range(ahead))]
    with ClipLoader(plan, ClipDecoder(decoder), positions, workers, ahead) as loader:  # type: ignore[arg-type]
        for _ in range(2 * ahead):
            next(loader)
        start = time.perf_counter()
        clips = (next(loader).frames_TCHW for _ in range(windows))
        frames = sum(len(clip) for clip in clips if clip is not None)
        return frames / (time.perf_counter() - start)


def synthetic_clips(folder: Path, count: int, frames: int, height: int, width: int) -> None:
    """Moving smooth colours with grain, H.264 with key frames every 48 frames."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 16 + 8, width // 16 + 8, 3), dtype=np.uint8)
    large = np.kron(coarse, np.ones((16, 16, 1), np.uint8))
    for number in range(count):
        with av.open(str(folder / f"synthetic{number}.mp4"), "w") as output:
            stream = output.add_stream("libx264", rate=24, options={"preset": "veryfast", "crf": "23", "g": "48"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for step in range(frames):
                top, left = (3 * step + 11 * number) % 96, (2 * step + 7 * number) % 96
                image = large[top : top + height, left : left + width] // 2
                image = image + rng.integers(0, 24, image.shape, dtype=np.uint8)
                output.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
            output.mux(stream.encode(None))


def shards_of(clips: list[Path], folder: Path) -> ShardIndex:
    """Shards that hold the clips as they are."""
    for path in clips:
        for kind, name in (("videos", path.name), ("labels", path.stem + ".txt")):
            target = folder / "input" / kind / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes() if kind == "videos" else b"a clip")
    build(BuildOptions(folder / "input", folder / "shards", codec="copy"))
    return ShardIndex.open([folder / "shards"])


def main() -> None:
    """Measure with the sizes of the command line, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, help="folder of mp4 files; unset: synthetic ones")
    parser.add_argument("--workers", type=int, default=2, help="processes of every method")
    parser.add_argument("--decoder", choices=["auto", "dali", "pyav"], default="pyav", help="of the loader")
    parser.add_argument("--num-frames", type=int, default=49, help="of a window")
    parser.add_argument("--sizes", nargs="+", default=["240x424", "320x320"], help="HEIGHTxWIDTH of buckets")
    parser.add_argument("--windows", type=int, default=40, help="windows of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--synthetic", type=int, nargs=4, default=[4, 144, 480, 854], metavar="N",
                        help="clips, frames, height, width")  # fmt: skip
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if arguments.clips is None:
            synthetic_clips(folder, *arguments.synthetic)
        clips = sorted((arguments.clips or folder).glob("*.mp4"))
        measure(arguments, clips, shards_of(clips, folder))


def measure(arguments: argparse.Namespace, clips: list[Path], index: ShardIndex) -> None:
    """Measure all methods, on windows from the start and at random."""
    samples = {sample.key: (row, sample) for row, sample in enumerate(index)}
    long_enough = {
        path: samples[path.stem] for path in clips if samples[path.stem][1].clip.frames >= arguments.num_frames
    }
    print(
        f"{len(long_enough)} clips, {arguments.num_frames} frames a window, {arguments.workers} processes, decoder "
        f"{arguments.decoder}, sizes {' '.join(arguments.sizes)}; median of {arguments.rounds} rounds (and range)\n\n"
        "| windows | method | frames/s | of the PyAV loop |\n|---|---|---|---|"
    )
    with multiprocessing.get_context("spawn").Pool(arguments.workers) as pool:
        for where in ("from the start", "at random"):
            windows, rows = windows_of(arguments, long_enough, where == "at random")
            report(where, runs_of(arguments, pool, windows, WindowPlan(index, windows, rows)), arguments.rounds)


def windows_of(
    arguments: argparse.Namespace, clips: dict[Path, tuple[int, Sample]], at_random: bool
) -> tuple[list[Window], list[int]]:
    """Windows of all clips and sizes in turn, and the row of each one's clip."""
    draw, paths = random.Random(0), list(clips)
    windows, rows = [], []
    for number in range(arguments.windows):
        path = paths[number % len(paths)]
        row, sample = clips[path]
        height, width = map(int, arguments.sizes[number % len(arguments.sizes)].split("x"))
        start = draw.randint(0, sample.clip.frames - arguments.num_frames) if at_random else 0
        windows.append(Window(str(path), start, ClipSize(arguments.num_frames, height, width)))
        rows.append(row)
    return windows, rows


def runs_of(
    arguments: argparse.Namespace, pool: multiprocessing.pool.Pool, windows: list[Window], plan: WindowPlan
) -> dict[str, Callable[[], float]]:
    """Functions that measure each method's speed, by its name."""
    methods: dict[str, Callable[[Window], int]] = {"PyAV loop": pyav_loop, "PyAV loop, resized": pyav_resized}
    for method in (torchcodec, decord):
        if importlib.util.find_spec(method.__name__):
            methods[method.__name__] = method
    runs = {name: functools.partial(through_pool, pool, method, windows) for name, method in methods.items()}
    return runs | {
        "ClipLoader": functools.partial(through_loader, plan, len(windows), arguments.workers, arguments.decoder)
    }


def report(where: str, runs: dict[str, Callable[[], float]], rounds: int) -> None:
    """Rounds of all methods in turn, the first one not counted; one line of the table each."""
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            speed = run()
            if number:
                speeds[name].append(speed)
    for name, values in speeds.items():
        ratio = statistics.median(a / b for a, b in zip(values, speeds["PyAV loop"], strict=True))
        print(f"| {where} | {name} | {statistics.median(values):.0f} ({min(values):.0f} - {max(values):.0f}) "
              f"| {ratio:.2f} |")  # fmt: skip


if __name__ == "__main__":
    main()

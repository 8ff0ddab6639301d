"""Clips that find their bucket in a second: both rules, and Open-Sora's with one numpy generator for each draw.

    OMP_NUM_THREADS=1 python benchmarks/bucket_assignment.py

All in one process and in turns, on the same made-up clips; the slow way on a part of them. It has to agree with the
rule opensora on every clip.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
from common import describe_machine

from vidtron.data.fit import ClipFit
from vidtron.data.planning.buckets import BucketTable, parse_buckets
from vidtron.data.planning.buckets_assign import Clips, Rule

CONTENT = {
    "144p": {1: [1.0, 200], 16: [1.0, 36], 32: [1.0, 18], 64: [1.0, 9], 128: [1.0, 4]},
    "256": {1: [0.8, 200], 16: [0.5, 22], 32: [0.5, 11], 64: [0.5, 6], 128: [0.8, 4]},
    "360p": {1: [0.5, 120], 16: [0.5, 9], 32: [0.5, 4], 64: [0.5, 2], 128: [0.5, 1]},
    "480p": {1: [0.4, 80], 16: [0.6, 6], 32: [0.6, 3], 64: [0.6, 1], 128: [0.0, None]},
    "720p": {1: [0.4, 40], 16: [0.6, 3], 32: [0.6, 1], 96: [0.0, None]},
}
"""Like the buckets of Open-Sora 1.1's last stage."""
WINDOW = 65536
INTERVAL, SEED = 3, 42


def made_up_clips(count: int) -> Clips:
    """Images and videos of the sizes that such collections have."""
    rng = np.random.default_rng(0)
    frames = np.where(rng.random(count) < 0.3, 1, rng.integers(20, 600, count))
    shapes = np.array([(240, 426), (360, 640), (480, 854), (720, 1280), (1080, 1920), (1280, 720), (512, 512)])
    height, width = shapes[rng.integers(0, len(shapes), count)].T
    return Clips(np.arange(count), np.zeros(count, np.int64), frames, frames, height, width)


def one_by_one(table: BucketTable, clips: Clips) -> list[int]:
    """Open-Sora's rule with a generator for each draw."""
    found = []
    for row, frames, height, width in zip(*(c.tolist() for c in (clips.rows, clips.frames, clips.height, clips.width)),
                                          strict=True):  # fmt: skip
        found.append(_one(table, row, frames, height, width))
    return found


def _one(table: BucketTable, row: int, frames: int, height: int, width: int) -> int:
    for resolution in table.resolutions:
        if height * width < resolution.pixels * 0.8:
            continue
        for candidate in resolution.candidates:
            fits = candidate.frames == 1 if frames == 1 else frames > candidate.frames * INTERVAL > INTERVAL
            if not fits:
                continue
            generator = np.random.default_rng(SEED + row * table.shapes + candidate.number)
            if candidate.keep < 1 and not generator.random() < candidate.keep:
                break
            assert candidate.first is not None
            names = list(resolution.ratios)
            return candidate.first + min(range(len(names)), key=lambda i: abs(float(names[i]) - height / width))
    return -1


def seconds(job: Callable[[], object]) -> float:
    """Seconds that one call of `job` takes."""
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def main() -> None:
    """Measure with the sizes of the command line, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=16 * WINDOW)
    parser.add_argument("--clips-one-by-one", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    fit = ClipFit(lambda h, w: (h, w), lambda f: (f,), lambda s: 1, lambda s: 1.0, lambda s: [])
    table = parse_buckets(CONTENT, fit)
    rules = {"hash": Rule.hash(table, SEED, stretch=True), "opensora": Rule.opensora(table, SEED, INTERVAL)}
    clips = made_up_clips(arguments.clips)
    windows = [Clips(*(c[i : i + WINDOW] for c in clips)) for i in range(0, arguments.clips, WINDOW)]
    few = Clips(*(c[: arguments.clips_one_by_one] for c in clips))
    if [max(-1, i) for i in rules["opensora"].assign(few).tolist()] != one_by_one(table, few):
        raise SystemExit("the rule opensora does not agree with numpy's generators")

    jobs: dict[str, tuple[int, Callable[[], object]]] = {
        name: (arguments.clips, lambda rule=rule: [rule.assign(window) for window in windows])  # type: ignore[misc]
        for name, rule in rules.items()
    }
    jobs["opensora, one generator a draw"] = len(few.rows), lambda: one_by_one(table, few)
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(arguments.rounds):
        for name, (_, job) in jobs.items():
            times[name].append(seconds(job))
    print(describe_machine())
    rates = {name: count / statistics.median(times[name]) for name, (count, _) in jobs.items()}
    slowest = min(rates.values())
    print(f"{'rule':32} {'clips/s':>12} {'of the slowest':>15}")
    for name, rate in rates.items():
        print(f"{name:32} {rate:12,.0f} {rate / slowest:14.0f}x")


if __name__ == "__main__":
    main()

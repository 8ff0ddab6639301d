"""Start-up and memory of an index of millions of samples, and of the plan over it.

    OMP_NUM_THREADS=1 python benchmarks/index_scale.py

Writes a synthetic index (no shards), then opens it in a fresh process and makes the plan of a run with buckets over
it. What was just written is in the machine's memory; from a disk or a file server, opening also takes the time to read
the file, once on each node. The table shows what each step took and the memory that the process has more than before
it opened the index: its own (RssAnon), and pages of the mapped file (RssFile), which all processes of a node share.
Times that grow with the rows are also shown for ten times as many.
"""

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from bucket_assignment import CONTENT
from common import describe_machine
from tqdm import tqdm

from vidtron.config.data import DataConfig
from vidtron.data.fit import ClipFit
from vidtron.data.planning.plan import Plan
from vidtron.data.shards.index import INDEX_NAME, ShardIndex
from vidtron.data.shards.index_schema import ROWS_PER_BATCH, schema
from vidtron.data.shards.index_writer import IndexWriter

SAMPLES_PER_SHARD = 1024
SIZES = np.array([(480, 720), (720, 1280), (1080, 1920), (512, 512), (1280, 720)])
RANDOM_ROWS = 10_000
SCORE = "score_aesthetic"


def synthetic_batch(first: int, count: int) -> pa.RecordBatch:
    """Rows as a data set of clips of some seconds has them, a tenth of it images."""
    random = np.random.default_rng(first)
    rows = np.arange(first, first + count)
    place = rows % SAMPLES_PER_SHARD * 2_000_000
    image = random.random(count) < 0.1
    frames = np.where(image, 1, random.integers(24, 480, count))
    fps = np.where(image, 1.0, random.choice([24.0, 25.0, 30.0], count))
    height, width = SIZES[random.integers(0, len(SIZES), count)].T

    def names(codes: np.ndarray, words: list[str]) -> pa.Array:
        return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int16()), pa.array(words))

    columns: dict[str, Any] = {
        "shard": rows // SAMPLES_PER_SHARD,
        "key": [f"clip{row:012d}" for row in rows],
        "media": names(image.astype(np.int16), ["mp4", "jpg"]),
        "media_offset": place + 512,
        "media_size": random.integers(100_000, 1_900_000, count),
        "txt_offset": place + 1_900_000,
        "txt_size": random.integers(50, 500, count),
        "json_offset": place + 1_910_000,
        "json_size": random.integers(200, 500, count),
        "width": width,
        "height": height,
        "frames": frames,
        "fps": fps,
        "duration": np.where(image, 0.0, frames / fps),
        "codec": names(np.where(image, 1, 0), ["h264", "mjpeg"]),
        "pixel_format": names(np.where(image, 1, 0), ["yuv420p", "yuvj420p"]),
        "plain": ~image,
        "image": image,
        "caption_characters": random.integers(50, 500, count),
        "caption_tokens": random.integers(10, 226, count),
        "times": pa.nulls(count, pa.large_list(pa.float64())),
        SCORE: random.random(count),
    }
    fields = schema([SCORE])
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, field.type)
        for field, column in ((field, columns[field.name]) for field in fields)
    ]
    return pa.record_batch(arrays, schema=fields)


def write(folder: Path, rows: int) -> float:
    """Write the index, and give the seconds it took."""
    start = time.perf_counter()
    with IndexWriter(folder, [SCORE]) as writer:
        for first in tqdm(range(0, rows, ROWS_PER_BATCH), "writing", disable=None):
            writer.add_batch(synthetic_batch(first, min(ROWS_PER_BATCH, rows - first)))
        shards = -(-rows // SAMPLES_PER_SHARD)
        writer.finish({f"shard-{number:06d}.tar": SAMPLES_PER_SHARD * 2_000_000 for number in range(shards)})
    return time.perf_counter() - start


def memory() -> dict[str, float]:
    """MiB of this process: its own, and of mapped files."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(fields[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile")}


FIT = ClipFit(
    rounded_size=lambda height, width: (round(height / 16) * 16, round(width / 16) * 16),
    nearest_frames=lambda frames: (frames,),
    tokens=lambda size: size.num_frames * size.height * size.width // 1024,
    flops=lambda size: 1.0 * size.num_frames * size.height * size.width,
    errors=lambda size: [],
)


@dataclass(frozen=True)
class Figure:
    """Measurements of one step of the start-up."""

    name: str
    seconds: float
    anonymous: float
    """MiB of the process alone, more than before opening."""
    mapped: float
    """MiB of the mapped file, more than before opening."""
    grows: bool
    """Whether the time grows with the rows."""


def measure(folder: Path, buckets: Path, results: "multiprocessing.SimpleQueue[list[Figure]]") -> None:
    """Measure in this process; `results` receives the figures."""
    before = memory()
    figures: list[Figure] = []

    def timed(name: str, action: Callable[[], Any], *, grows: bool = False) -> Any:
        start = time.perf_counter()
        result = action()
        seconds = time.perf_counter() - start
        now = memory()
        figures.append(
            Figure(name, seconds, now["RssAnon"] - before["RssAnon"], now["RssFile"] - before["RssFile"], grows)
        )
        return result

    index = timed(
        "open the index, with a look at all of it", lambda: ShardIndex.open([folder], check_shards=False), grows=True
    )
    timed("open it again", lambda: ShardIndex.open([folder], check_shards=False))
    rows = np.random.default_rng(0).integers(0, len(index), RANDOM_ROWS)
    timed(f"{RANDOM_ROWS:,} random samples", lambda: [index[int(row)] for row in rows])
    plan = timed("make the plan", lambda: Plan.from_config(index, DataConfig(bucket_config=buckets), 0, FIT))
    batch = timed("find the first global batch", lambda: plan.batch_at(0))
    timed("find its rows", lambda: plan.rows(0, batch.size))
    report = timed("go through the epoch: find the bucket of every row", lambda: plan.epoch_report(0), grows=True)
    middle = report.used // 2
    timed("find a sample in its middle", lambda: plan.slot(middle))
    second = timed("find a sample of the second epoch", lambda: plan.slot(report.used + 1000))
    assert second.epoch == 1
    results.put(figures)


def table(figures: list[Figure]) -> Iterator[str]:
    """The measurements as lines of Markdown."""
    yield "| | seconds | of ten times the rows | MiB of the process | MiB of the mapped file |"
    yield "| --- | --- | --- | --- | --- |"
    for one in figures:
        larger = f"about {10 * one.seconds:.0f}" if one.grows else "the same"
        yield f"| {one.name} | {one.seconds:.3f} | {larger} | {one.anonymous:.0f} | {one.mapped:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--output", type=Path, help="folder for the index, which stays; without it a temporary one")
    arguments = parser.parse_args()
    with TemporaryDirectory() as temporary:
        folder = arguments.output or Path(temporary) / "index"
        folder.mkdir(parents=True, exist_ok=True)
        buckets = Path(temporary) / "buckets.yaml"
        buckets.write_text(yaml.safe_dump(CONTENT))
        seconds = write(folder, arguments.rows)
        size = (folder / INDEX_NAME).stat().st_size
        context = multiprocessing.get_context("spawn")  # a fresh process: nothing of the writing is in its memory
        results: multiprocessing.SimpleQueue[list[Figure]] = context.SimpleQueue()
        process = context.Process(target=measure, args=(folder, buckets, results))
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(process.exitcode)
        figures = results.get()
    print("# An index of many samples\n")
    print(describe_machine())
    print(f"{arguments.rows:,} rows, {size / arguments.rows:.0f} bytes each, written in {seconds:.0f} s\n")
    print("\n".join(table(figures)))


if __name__ == "__main__":
    main()

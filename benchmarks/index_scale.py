"""Start-up and memory of an index of millions of samples.

    python benchmarks/index_scale.py --rows 10_000_000 --output FOLDER

Writes a synthetic index (no shards), then opens it in a fresh process and reports the time to open it, the memory
that this took (RssAnon: of the process alone; RssFile: pages of the mapped file, shared by all processes of a node),
and the time of single rows and of columns.
"""

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from vidtron.data.index import INDEX_NAME, ShardIndex
from vidtron.data.index_schema import ROWS_PER_BATCH, schema
from vidtron.data.index_writer import IndexWriter

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
        "duration": (frames - 1) / fps,
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
    """Write the index; seconds."""
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


def measure(folder: Path, results: "multiprocessing.SimpleQueue[dict[str, float]]") -> None:
    """Measure in this process; `results` receives the figures."""
    before = memory()
    figures: dict[str, float] = {}

    def timed(name: str, action: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = action()
        figures[f"{name}, s"] = time.perf_counter() - start
        now = memory()
        figures.update({f"{name}, {kind} MiB more than before opening": now[kind] - before[kind] for kind in now})
        return result

    index = timed("open", lambda: ShardIndex.open([folder], check_shards=False))
    rows = np.random.default_rng(0).integers(0, len(index), RANDOM_ROWS)
    timed(f"{RANDOM_ROWS} random samples", lambda: [index[int(row)] for row in rows])
    timed(f"frames of {RANDOM_ROWS} random rows", lambda: index.take("frames", rows))
    timed("frames of all rows", lambda: index.column("frames", 0, len(index)))
    # A plan's start-up, and the memory of its permutation, belong here.
    results.put(figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--output", type=Path, help="folder for the index, which stays; without it a temporary one")
    arguments = parser.parse_args()
    with TemporaryDirectory() as temporary:
        folder = arguments.output or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        figures = {"rows": arguments.rows, "write, s": write(folder, arguments.rows)}
        figures["bytes a row"] = (folder / INDEX_NAME).stat().st_size / arguments.rows
        context = multiprocessing.get_context("spawn")  # a fresh process: nothing of the writing is in its memory
        results: multiprocessing.SimpleQueue[dict[str, float]] = context.SimpleQueue()
        process = context.Process(target=measure, args=(folder, results))
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(process.exitcode)
        figures.update(results.get())
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}, indent=1))


if __name__ == "__main__":
    main()

"""Indexes damaged at random: each is refused with one error that names it, or leads to nothing but good samples.

Other seeds: VIDTRON_DAMAGE_SEED.
"""

import json
import os
import random
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import pretrain_video
from tests.shards import write_shards
from tools import inspect_buckets, report_dataset
from vidtron.data.decoding.decode import ClipDecoder
from vidtron.data.errors import BadSampleError, ShardError
from vidtron.data.shards.index import INDEX_NAME, ShardIndex
from vidtron.data.shards.index_schema import HEADER_KEY, HEADER_SUM_KEY

SEED = int(os.environ.get("VIDTRON_DAMAGE_SEED", "0"))
TRIES = 200
FRAMES = 6
SIZE = (32, 48)
HOSTILE: list[Any] = [-1, 0, 1, 7, 511, 2**31 - 1, 2**62, -(2**63), None, "", "../x", "no such", "\0", True, False]
HOSTILE += [
    float("nan"),
    float("inf"),
    -float("inf"),
    1e-300,
    1e300,
    [],
    [0.0],
    [1.0, 0.5] * 3,
    [float("nan")] * FRAMES,
]
NESTED = "[" * 100_000 + "]" * 100_000


class Index:
    """What an index file says, taken apart and put together again."""

    def __init__(self, path: Path) -> None:
        reader = pa.ipc.open_file(pa.py_buffer(path.read_bytes()))
        self.table = pa.Table.from_batches([reader.get_batch(0)])
        _, metadata = reader.get_batch_with_custom_metadata(reader.num_record_batches - 1)
        self.header: Any = json.loads(metadata[HEADER_KEY])
        self.metadata = self.table.schema.metadata

    def write(self, path: Path, text: bytes | None = None) -> None:
        """Without the checksums of the bytes, as older versions did: the rest must be seen from the rows."""
        if isinstance(self.header, dict):
            self.header.pop("crc32", None)
        text = json.dumps(self.header).encode() if text is None else text
        told = {HEADER_KEY: text, HEADER_SUM_KEY: str(zlib.crc32(text)).encode()}
        (batch,) = self.table.replace_schema_metadata(self.metadata).to_batches()
        path.unlink()
        with pa.ipc.new_file(str(path), batch.schema) as writer:
            writer.write_batch(batch)
            writer.write_batch(batch.slice(0, 0), custom_metadata=told)


def overwritten(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 1, 4, 40])):
        content[rng.randrange(len(content))] = rng.randrange(256)
    path.unlink()
    path.write_bytes(content)


def cut(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    start = rng.choice([0, 0, rng.randrange(len(content))])
    path.unlink()
    path.write_bytes(content[start : rng.randrange(start, len(content))])


def another_file(path: Path, rng: random.Random) -> None:
    content = rng.choice(
        [b"", b"ARROW1\0\0", rng.randbytes(5000), b"{}", b"ARROW1\0\0" + rng.randbytes(500) + b"ARROW1"]
    )
    path.unlink()
    path.write_bytes(content)


def a_value(path: Path, rng: random.Random) -> None:
    index = Index(path)
    name = rng.choice(index.table.column_names)
    column = index.table.column(name).to_pylist()
    kind = index.table.schema.field(name).type
    for _ in range(50):
        values = list(column)
        values[rng.randrange(len(values))] = rng.choice([*HOSTILE, rng.choice(column)])
        try:
            if pa.types.is_dictionary(kind):
                changed = pa.array(values, pa.string()).dictionary_encode().cast(kind)
            else:
                changed = pa.array(values, kind)
        except (pa.ArrowException, TypeError, OverflowError, ValueError):
            continue
        break
    number = index.table.column_names.index(name)
    index.table = index.table.set_column(number, index.table.schema.field(name), changed)
    index.write(path)


def a_column(path: Path, rng: random.Random) -> None:
    index = Index(path)
    number = rng.randrange(index.table.num_columns)
    field = index.table.schema.field(number)
    deed = rng.randrange(4)
    if deed == 0:
        index.table = index.table.remove_column(number)
    elif deed == 1:
        index.table = index.table.append_column(field, index.table.column(number))
    elif deed == 2:
        index.table = index.table.set_column(number, f"{field.name}2", index.table.column(number))
    else:
        kind = rng.choice([pa.int8(), pa.int64(), pa.float32(), pa.string(), pa.binary(), pa.list_(pa.int32())])
        index.table = index.table.set_column(number, pa.field(field.name, kind), pa.nulls(index.table.num_rows, kind))
    index.write(path)


def codes_and_offsets(path: Path, rng: random.Random) -> None:
    """What Arrow itself would follow beyond its buffers."""
    index = Index(path)
    rows = index.table.num_rows
    if rng.random() < 0.5:
        name = rng.choice(["media", "codec", "pixel_format"])
        codes = np.zeros(rows, np.int16)
        codes[rng.randrange(rows)] = rng.choice([-1, 1, 300, -32768])
        kind = index.table.schema.field(name).type
        buffers = [None, pa.py_buffer(codes)]
        names = pa.array([index.table.column(name)[0].as_py()])
        changed = pa.Array.from_buffers(pa.int16(), rows, buffers)
        changed = pa.DictionaryArray.from_arrays(changed, names, safe=False).cast(kind, safe=False)
    else:
        name = "key"
        offsets = np.arange(rows + 1, dtype=np.int32)
        offsets[rng.randrange(1, rows)] = rng.choice([-5, 2**31 - 1, 100_000])  # the ends Arrow checks itself
        text = rng.choice([b"a" * rows, b"\xff" * rows])
        changed = pa.Array.from_buffers(pa.string(), rows, [None, pa.py_buffer(offsets), pa.py_buffer(text)])
    number = index.table.column_names.index(name)
    index.table = index.table.set_column(number, index.table.schema.field(name), changed)
    index.write(path)


def the_header(path: Path, rng: random.Random) -> None:
    index = Index(path)
    deed = rng.randrange(6)
    name = rng.choice(list(index.header))
    if deed == 0:
        del index.header[name]
    elif deed == 1:
        index.header[name] = rng.choice([*HOSTILE[:15], {}, {"s.tar": -1}, {"../s.tar": 10240}])
    elif deed == 2:
        shard, size = next(iter(index.header["shards"].items()))
        others = [
            {},
            {f"../{shard}": size},
            {f"/etc/{shard}": size},
            {shard: size - 512},
            {shard: str(size)},
            {"": size},
        ]
        index.header["shards"] = rng.choice([*others, {"a\0": 1, shard: size}, {shard: size, "b.tar": 5}])
    elif deed == 3:
        index.header["samples"] += rng.choice([-1, 1, 2**40])
    elif deed == 4:
        index.metadata = rng.choice([{}, {**index.metadata, b"version": b"\xff"}, {**index.metadata, b"format": b"x"}])
    else:
        texts = [b"", b"[]", b"\xff\xfe", NESTED.encode(), ('{"samples":' + NESTED + "}").encode(), b'"\\ud800"']
        return index.write(path, rng.choice(texts))
    index.write(path)


DEEDS: list[Callable[[Path, random.Random], None]] = [
    overwritten, overwritten, cut, another_file, a_value, a_value, a_value, a_column, codes_and_offsets, the_header,
]  # fmt: skip


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("good") / "shards", clips=5, frames=FRAMES, height=32, width=48)


def damaged(shards: Path, folder: Path, number: int) -> Path:
    """A copy of the shards with an index that is damaged in the way of a number."""
    rng = random.Random(f"{SEED} {number}")
    shutil.copytree(shards, folder)
    rng.choice(DEEDS)(folder / INDEX_NAME, rng)
    return folder


def pictures(index: ShardIndex, decoder: ClipDecoder, row: int) -> tuple[str, np.ndarray]:
    """(caption, frames) as training reads them."""
    sample = index[row]
    numbers = list(range(sample.clip.frames))[:FRAMES]
    return sample.caption(), decoder.decode(sample, numbers, *SIZE).numpy()


@pytest.mark.parametrize("part", range(10))
def test_damage_is_refused_or_the_sample_is_bad(shards: Path, tmp_path: Path, part: int) -> None:
    decoder = ClipDecoder("pyav")
    whole = ShardIndex.open([shards])
    good = {whole[row].key: pictures(whole, decoder, row) for row in range(len(whole))}
    refused = 0
    for number in range(part, TRIES, 10):
        folder = damaged(shards, tmp_path / f"{number}", number)
        try:
            index = ShardIndex.open([folder])
        except ShardError as error:
            assert str(folder) in str(error) and "\n" not in str(error)
            assert any(word in str(error) for word in ("index_shards.py", "build_shards.py", "copy it again"))
            refused += 1
            continue
        for row in range(len(index)):
            try:
                caption, frames = pictures(index, decoder, row)
            except BadSampleError as error:
                assert error.key == index[row].key and error.reason
                continue
            expected = good[index[row].key]
            assert caption == expected[0], number
            assert np.array_equal(frames, expected[1][: len(frames)]), number
    assert refused >= TRIES // 10 // 2


def test_every_byte_that_was_written_is_checked(shards: Path, tmp_path: Path) -> None:
    """Also where the row would still look as rows do."""
    folder = tmp_path / "shards"
    shutil.copytree(shards, folder)
    path = folder / INDEX_NAME
    content = path.read_bytes()
    places = content.index(b"clip000")
    path.unlink()
    path.write_bytes(content[:places] + b"clop000" + content[places + 7 :])
    with pytest.raises(ShardError, match=r"bytes 0 to \d+ are not those that were written; copy it again"):
        ShardIndex.open([folder])


@pytest.mark.parametrize(
    ("deed", "seed"), [(cut, 1), (another_file, 3), (a_column, 2), (the_header, 5), (codes_and_offsets, 1)]
)
def test_commands_refuse_it_with_a_line(shards, tmp_path, capsys, deed, seed) -> None:
    folder = tmp_path / "shards"
    shutil.copytree(shards, folder)
    deed(folder / INDEX_NAME, random.Random(seed))
    buckets = tmp_path / "buckets.yaml"
    buckets.write_text('"32x48": {5: [1.0, 2]}')
    run = ["--model", "cogvideox-tiny", "--data-path", str(folder)]
    commands: dict[str, Callable[[], Any]] = {
        "pretrain_video.py": lambda: pretrain_video.main([*run, "--train-iters", "20"]),
        "inspect_buckets.py": lambda: inspect_buckets.main([*run, "--bucket-config", str(buckets)]),
        "report_dataset.py": lambda: exit(
            report_dataset.main(["--data-path", str(folder), "--output", str(tmp_path / "x.html")])
        ),
    }
    for name, command in commands.items():
        with pytest.raises(SystemExit) as caught:
            command()
        assert caught.value.code == 2, name
        errors = capsys.readouterr().err.splitlines()
        assert len(errors) == 1 and errors[0].startswith("error: ") and str(folder) in errors[0], name

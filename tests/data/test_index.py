import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.data.clip_files import build_shards, clip_bytes
from tests.data.index_files import facts, row, write_index
from vidtron.data.shards import index_writer
from vidtron.data.shards.index import INDEX_NAME, ShardError, ShardIndex
from vidtron.data.shards.index_file import read_header
from vidtron.data.shards.index_writer import IndexWriter


@pytest.fixture
def index(tmp_path: Path) -> ShardIndex:
    clips = {name: clip_bytes(5 + i, "mjpeg") for i, name in enumerate("abc")}
    return build_shards(tmp_path, clips, samples_per_shard=2)


def rows_of(count: int, prefix: str = "k", codecs: tuple[str, ...] = ("h264",)) -> list[Any]:
    """Rows that differ in everything; every third clip is irregular, every fourth sample an image."""
    result = []
    for i in range(count):
        clip = facts(3 + i % 5, width=64 + i, fps=24 + i / 7, codec=codecs[i % len(codecs)], plain=i % 2 == 0)
        if i % 3 == 0:
            clip = replace(clip, times=tuple(0.1 * j * j for j in range(clip.frames)))
        tokens = None if i % 5 == 0 else i
        scores = {"score_a": None if i % 2 else i / 3}
        media = "png" if i % 4 == 0 else "mp4"
        result.append(row(f"{prefix}{i}", clip, f"s{i // 4}.tar", media, caption_tokens=tokens, scores=scores))
    return result


def test_members_are_read_by_their_place(index: ShardIndex) -> None:
    assert [sample.key for sample in index] == ["a", "b", "c"]
    assert [sample.shard.name for sample in index] == ["shard-000000.tar"] * 2 + ["shard-000001.tar"]
    for i, sample in enumerate(index):
        assert sample.media == "mp4" and not sample.image
        assert sample.read("mp4") == clip_bytes(5 + i, "mjpeg")
        assert sample.caption() == f"caption of {sample.key}"
        assert (sample.caption_characters, sample.caption_tokens) == (12, None)
        assert json.loads(sample.read("json"))["frames"] == sample.clip.frames == 5 + i
        assert (sample.clip.width, sample.clip.height, sample.clip.codec) == (72, 48, "mjpeg")
    assert index.codecs() == {"mjpeg": 3}


def test_webdataset_reads_the_shards(index: ShardIndex) -> None:
    webdataset = pytest.importorskip("webdataset")
    shards = sorted(str(path) for path in index.folders[0].glob("*.tar"))
    samples = list(webdataset.WebDataset(shards, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == ["a", "b", "c"]
    assert samples[1]["mp4"] == index[1].read("mp4")
    assert samples[1]["txt"] == b"caption of b"


@pytest.mark.parametrize("rows_per_batch", [1, 4, 10, 100])
def test_rows_come_back_as_they_were_written(tmp_path: Path, rows_per_batch: int) -> None:
    rows = rows_of(23, codecs=("h264", "vp9", "av1"))
    write_index(tmp_path, rows, rows_per_batch, ["score_a"])
    index = ShardIndex.open([tmp_path], check_shards=False)
    assert len(index) == 23 and index.scores == ("score_a",)
    for sample, one in zip(index, rows, strict=True):
        assert (sample.key, sample.shard, sample.clip) == (one.key, tmp_path / one.shard, one.clip)
        assert (sample.media, sample.image, sample.members) == (one.media, one.media == "png", one.members)
        assert (sample.caption_tokens, sample.shard_size) == (one.caption_tokens, 10240)
    picked = np.array([22, 0, 7, 7, 4, 21])
    for name in ("width", "height", "frames", "fps", "duration", "plain"):
        expected = [getattr(rows[i].clip, name) for i in picked]
        assert index.take(name, picked).tolist() == expected
        assert index.column(name, 3, 20).tolist() == [getattr(one.clip, name) for one in rows[3:20]]
    assert index.take("image", picked).tolist() == [i % 4 == 0 for i in picked]
    assert index.take("caption_tokens", picked).tolist() == [-1 if i % 5 == 0 else i for i in picked]
    scores = index.take("score_a", picked)
    np.testing.assert_array_equal(scores, [np.nan if i % 2 else i / 3 for i in picked])
    assert [index.names("codec")[code] for code in index.take("codec", picked)] == [rows[i].clip.codec for i in picked]
    assert index.keys(picked) == [rows[i].key for i in picked]
    assert index[-1].key == "k22" and [sample.key for sample in index[20:]] == ["k20", "k21", "k22"]
    assert sum(count for _, count in index.kinds()) == 23
    assert index.codecs() == {"h264": 8, "vp9": 8, "av1": 7}


def test_durations_of_earlier_versions_get_their_last_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_writer, "DURATIONS", "another entry")
    clips = [facts(15, fps=8.0, duration=14 / 8), facts(1, fps=1.0, duration=0.0), facts(30, duration=2.9)]
    folder = write_index(tmp_path, [row(f"clip{number}", clip) for number, clip in enumerate(clips)])
    found = ShardIndex.open([folder], check_shards=False)
    assert found.take("duration", np.array([2, 0, 1])).tolist() == [3.0, 1.875, 0.0]
    assert found.column("duration", 0, 3).tolist() == [one.clip.duration for one in found] == [1.875, 0.0, 3.0]


@pytest.mark.parametrize("changed", [{"duration": 9.0}, {"duration": -1.0}, {"fps": 1e-7, "duration": 1.0}])
def test_durations_of_earlier_versions_are_checked_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, float]
) -> None:
    monkeypatch.setattr(index_writer, "DURATIONS", "another entry")
    folder = write_index(tmp_path, [row("clip", facts(30, **changed))])
    with pytest.raises(ShardError, match=r"row 0 \('clip'\): "):
        ShardIndex.open([folder], check_shards=False)


@pytest.mark.parametrize("entry", [{"caption_key": 3}, {"caption_key": None}, {"durations": "half"}])
def test_entries_of_the_header_that_mean_nothing(tmp_path: Path, entry: dict[str, Any]) -> None:
    with IndexWriter(tmp_path) as writer:
        writer.add(row("clip", facts()))
        writer.finish({"s.tar": 10240}, entry)
    with pytest.raises(ShardError, match=rf"its header is damaged \(its {next(iter(entry))} .* accepted: "):
        ShardIndex.open([tmp_path], check_shards=False)


def test_one_record_batch_is_not_copied(tmp_path: Path) -> None:
    write_index(tmp_path, rows_of(9), 4)
    index = ShardIndex.open([tmp_path], check_shards=False)
    assert not index.column("fps", 4, 8).flags.owndata
    assert not index.column("fps", 4, 8).flags.writeable
    assert index.column("fps", 3, 8).flags.owndata
    assert (
        len(index.column("fps", 9, 9)) == len(index.column("fps", 0, 0)) == len(index.take("fps", np.array([]))) == 0
    )


def test_what_there_is_not_is_refused(tmp_path: Path) -> None:
    write_index(tmp_path, rows_of(9), 4)
    index = ShardIndex.open([tmp_path], check_shards=False)
    for column in ("key", "times", "nonsense", "score_b"):
        with pytest.raises(KeyError, match=column):
            index.take(column, np.array([1]))
    for rows in ([9], [-1], [0, 9]):
        with pytest.raises(IndexError, match="9 samples"):
            index.take("fps", np.array(rows))
        with pytest.raises(IndexError, match="9 samples"):
            index.keys(np.array(rows))
    with pytest.raises(IndexError, match="9 samples"):
        index.column("fps", 3, 10)
    with pytest.raises(IndexError, match="row 9"):
        index[9]


def test_folders_share_codes_and_scores(tmp_path: Path) -> None:
    write_index(tmp_path / "a", rows_of(5, codecs=("h264", "vp9")), 3)
    write_index(tmp_path / "b", rows_of(7, codecs=("vp9", "av1")), 2, ["score_a"])
    index = ShardIndex.open([tmp_path / "a", tmp_path / "b"], check_shards=False)
    assert index.folder_sizes == [5, 7] and index.folders == [tmp_path / "a", tmp_path / "b"]
    rows = np.arange(12)[::-1]
    found = [index.names("codec")[code] for code in index.take("codec", rows)]
    assert found == [index[int(i)].clip.codec for i in rows]
    assert len(set(index.names("codec"))) == 3
    np.testing.assert_array_equal(index.column("score_a", 3, 8), [np.nan, np.nan, 0, np.nan, 2 / 3])
    assert index.keys(rows)[:2] == ["k6", "k5"] and index[5].shard == tmp_path / "b" / "s0.tar"
    assert index.codecs() == {"h264": 3, "vp9": 6, "av1": 3}


def test_threads_may_share_an_index(tmp_path: Path) -> None:
    rows = rows_of(300)
    write_index(tmp_path, rows, 7)
    for _ in range(5):
        index = ShardIndex.open([tmp_path], check_shards=False)
        with ThreadPoolExecutor(2) as pool:
            keys = pool.map(lambda i: (index[i].key, int(index.take("width", np.array([i]))[0])), range(300))  # noqa: B023
            assert list(keys) == [(one.key, one.clip.width) for one in rows]


def test_folders_are_joined_and_their_paths_do_not_count(index: ShardIndex, tmp_path: Path) -> None:
    folder = index.folders[0]
    assert len(ShardIndex.open([folder, folder])) == 6
    moved = folder.rename(tmp_path / "elsewhere")
    assert ShardIndex.open([moved]).fingerprint == index.fingerprint
    assert ShardIndex.open([moved, moved]).fingerprint != index.fingerprint


def test_the_fingerprint_is_that_of_the_content(tmp_path: Path) -> None:
    rows = rows_of(9)
    others = {
        "the same": rows,
        "key": [*rows[:8], replace(rows[8], key="other")],
        "keys joined otherwise": [replace(rows[0], key="k0k"), replace(rows[1], key="1"), *rows[2:]],
        "clip": [*rows[:8], replace(rows[8], clip=replace(rows[8].clip, width=1))],
        "times": [replace(rows[0], clip=replace(rows[0].clip, times=(0.0, 0.1, 0.5))), *rows[1:]],
        "codec": [replace(rows[0], clip=replace(rows[0].clip, codec="av1")), *rows[1:]],
        "tokens": [replace(rows[0], caption_tokens=0), *rows[1:]],
        "score": [replace(rows[0], scores={"score_a": 9.0}), *rows[1:]],
        "order": rows[::-1],
    }
    digests = {}
    for name, content in others.items():
        write_index(tmp_path / name, content, scores=["score_a"])
        digests[name] = ShardIndex.open([tmp_path / name], check_shards=False).fingerprint
    write_index(tmp_path / "original", rows, scores=["score_a"])
    assert digests["the same"] == ShardIndex.open([tmp_path / "original"], check_shards=False).fingerprint
    assert len(set(digests.values())) == len(others)


def test_an_index_goes_to_another_process(index: ShardIndex) -> None:
    again = pickle.loads(pickle.dumps(index))
    assert again.fingerprint == index.fingerprint and again[2] == index[2]
    sample = pickle.loads(pickle.dumps(index[2]))
    assert sample == index[2] and sample.caption() == "caption of c"


def test_missing_folders_and_indexes_name_the_tool(index: ShardIndex, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"nowhere: no such folder.*build_shards\.py"):
        ShardIndex.open([tmp_path / "nowhere"])
    with pytest.raises(ShardError, match=r"holds no shards.*build_shards\.py"):
        ShardIndex.open([tmp_path])
    (index.folders[0] / INDEX_NAME).unlink()
    with pytest.raises(ShardError, match=r"has shards but no finished index.*index_shards\.py"):
        ShardIndex.open(index.folders)
    (index.folders[0] / "index.jsonl").write_text("{}\n")
    with pytest.raises(ShardError, match=r"index of version 1 \(index\.jsonl\).*index_shards\.py"):
        ShardIndex.open(index.folders)


def test_damaged_indexes_are_found(index: ShardIndex, tmp_path: Path) -> None:
    path = index.folders[0] / INDEX_NAME
    whole = path.read_bytes()
    for content, message in (
        (whole[:-30], "was cut short"),
        (whole[: len(whole) // 2], "was cut short"),
        (b"", "was cut short"),
        (whole.replace(b"vidtron-shards", b"another-shards"), "is not an index of shards"),
        (whole.replace(b'"samples": 3', b'"sample": 33'), "header is damaged"),
    ):
        path.unlink()  # the old content stays mapped
        path.write_bytes(content)
        with pytest.raises(ShardError, match=message):
            ShardIndex.open(index.folders)
    table = pa.table({"x": [1]}).replace_schema_metadata({"format": "vidtron-shards", "version": "3"})
    path.unlink()
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(ShardError, match="has version 3; accepted: 2"):
        ShardIndex.open(index.folders)
    with IndexWriter(tmp_path) as empty:
        empty.finish({})
    with pytest.raises(ShardError, match="the index is empty"):
        ShardIndex.open([tmp_path])


def test_missing_and_short_shards_are_found(index: ShardIndex) -> None:
    shard = index.folders[0] / "shard-000001.tar"
    shard.write_bytes(shard.read_bytes()[:-512])
    with pytest.raises(ShardError, match=r"shard-000001\.tar: has \d+ bytes where the index says"):
        ShardIndex.open(index.folders)
    shard.unlink()
    with pytest.raises(ShardError, match=r"shard-000001\.tar: is missing"):
        ShardIndex.open(index.folders)


def test_an_index_that_is_not_finished_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stop"), IndexWriter(tmp_path) as writer:
        writer.add(rows_of(1)[0])
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ShardError, match=r"rows of the shards s0\.tar, but sizes of other\.tar"):
        with IndexWriter(tmp_path) as writer:
            writer.add(rows_of(1)[0])
            writer.finish({"other.tar": 3})


def test_batches_of_columns_are_taken_as_rows_are(tmp_path: Path) -> None:
    write_index(tmp_path / "rows", rows_of(10), 4)
    reader = pa.ipc.open_file(str(tmp_path / "rows" / INDEX_NAME))
    batches = [reader.get_batch(i) for i in range(3)]
    (tmp_path / "batches").mkdir()
    with IndexWriter(tmp_path / "batches", rows_per_batch=4) as writer:
        writer.add_batch(batches[0])
        with pytest.raises(ValueError, match="columns key: string"):
            writer.add_batch(batches[2].select(["key"]))
        writer.add_batch(batches[1])
        writer.add_batch(batches[2])
        with pytest.raises(ValueError, match="4 rows; accepted: 4, fewer in the last batch only"):
            writer.add_batch(batches[0])
        writer.finish({f"s{i}.tar": 10240 for i in range(3)})
    headers = [read_header(tmp_path / name) for name in ("batches", "rows")]
    assert [len(header.pop("crc32")) for header in headers] == [3, 3]  # the same rows, in other bytes
    assert headers[0] == headers[1]

"""What a build takes besides clips and captions: images, scores, tables of Parquet, a tokenizer."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.clip_files import clip_bytes, image_bytes, write_clips
from vidtron.data.building.build_state import BuildError
from vidtron.data.building.clip_source import SourceError
from vidtron.data.building.shard_writer import BuildOptions, build
from vidtron.data.building.transcode import Edit
from vidtron.data.shards.index import ShardIndex
from vidtron.data.shards.index_file import read_header


def built(source: Path, output: Path, **options: Any) -> ShardIndex:
    build(BuildOptions(source, output, **{"codec": "copy", **options}))
    return ShardIndex.open([output])


@pytest.mark.parametrize(
    "options", [{}, {"codec": "vp9", "cut_seconds": 1.0, "edit": Edit(start=0.5, height=24)}], ids=["copy", "vp9"]
)
def test_images_are_clips_of_one_frame(tmp_path: Path, options: dict[str, Any]) -> None:
    source = write_clips(tmp_path / "clips", {"z": clip_bytes(30, fps=10)})
    images = {"a.jpg": "JPEG", "b.JPEG": "JPEG", "c.png": "PNG", "d.webp": "WEBP"}
    for name, kind in images.items():
        (source / "videos" / name).write_bytes(image_bytes(kind))
        (source / "labels" / f"{Path(name).stem}.txt").write_text("a picture")
    samples = list(built(source, tmp_path / "out", **options))
    for sample, (name, kind) in zip(samples[:4], images.items(), strict=True):
        extension = name.partition(".")[2].lower()
        assert (sample.media, sample.image) == (extension, True)
        assert sample.read(extension) == image_bytes(kind) and sample.caption() == "a picture"
        clip = sample.clip
        assert (clip.frames, clip.fps, clip.duration, clip.times, clip.plain) == (1, 1.0, 0.0, None, False)
        assert (clip.width, clip.height) == (72, 48)
    assert len(samples) > 4 and not any(sample.image for sample in samples[4:])


def test_an_image_beside_its_video_is_skipped(tmp_path: Path) -> None:
    source = write_clips(tmp_path / "clips", {"a": clip_bytes(5, "mjpeg"), "b": clip_bytes(5, "mjpeg")})
    (source / "videos" / "a.jpg").write_bytes(image_bytes("JPEG"))
    result = build(BuildOptions(source, tmp_path / "out", "copy"))
    assert result.samples == 2
    assert [(Path(one.path).name, one.reason) for one in result.skipped] == [
        ("a.jpg", "it stands for the video a.mp4 beside it")
    ]


def test_an_image_that_cannot_be_read_is_skipped(tmp_path: Path) -> None:
    source = write_clips(tmp_path / "clips", {"a": clip_bytes(5, "mjpeg")})
    for name, content in (("x.png", b"nothing"), ("y.jpg", clip_bytes(5))):
        (source / "videos" / name).write_bytes(content)
        (source / "labels" / name).with_suffix(".txt").write_text("words")
    skipped = build(BuildOptions(source, tmp_path / "out", "copy")).skipped
    assert [one.key for one in skipped] == ["x", "y"] and "5 pictures in it" in skipped[1].reason


def write_table(folder: Path, kind: str, columns: dict[str, list[Any]]) -> Path:
    for name in columns["path"]:
        (folder / name).write_bytes(clip_bytes(5, "mjpeg"))
    table = folder / f"table.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table(columns), table)
        return table
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return table


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_scores_become_columns(tmp_path: Path, kind: str) -> None:
    columns = {
        "path": ["a.mp4", "b.mp4", "c.mp4"],
        "caption": ["one", "two", "three"],
        "score_a": [0.5, None, 2.0],
        "motion": [1, 2, 3],
        "score_words": ["good", "bad", ""],
        "other": [7, 8, 9],
    }
    index = built(write_table(tmp_path, kind, columns), tmp_path / "out", scores=("motion",))
    assert sorted(index.scores) == ["score_a", "score_motion"]
    np.testing.assert_array_equal(index.column("score_a", 0, 3), [0.5, np.nan, 2.0])
    assert index.column("score_motion", 0, 3).tolist() == [1, 2, 3]
    assert json.loads(index[0].read("json"))["other"] == 7


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (("nonsense",), "--scores nonsense: no sample has it"),
        (("other",), "--scores other: 'x' is no number; accepted: numbers, or nothing"),
        (("a",), "is column score_a already; accepted: one of the two"),
    ],
)
def test_scores_that_are_none(tmp_path: Path, scores: tuple[str, ...], message: str) -> None:
    columns = {"path": ["a.mp4"], "caption": ["one"], "score_a": [0.5], "a": [1.0], "other": ["x"]}
    table = write_table(tmp_path, "jsonl", columns)
    with pytest.raises(BuildError, match=message):
        build(BuildOptions(table, tmp_path / "out", "copy", scores=scores))
    assert not (tmp_path / "out").exists()


def test_parquet_tables(tmp_path: Path) -> None:
    columns = {"path": ["a.mp4", "b.mp4"], "text": ["one", None]}
    table = write_table(tmp_path, "parquet", columns)
    result = build(BuildOptions(table, tmp_path / "out", "copy"))
    assert result.samples == 1 and "row 2" in result.skipped[0].reason
    table.write_bytes(b"nothing")
    with pytest.raises(SourceError, match="is no Parquet file"):
        build(BuildOptions(table, tmp_path / "other", "copy"))


def test_a_tokenizer_counts_captions(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from transformers import AutoTokenizer

    from tests.encoders.tiny_folders import make_tiny_t5

    folder = make_tiny_t5(tmp_path / "t5")
    source = write_clips(tmp_path / "clips", {"a": clip_bytes(5, "mjpeg")})
    index = built(source, tmp_path / "out", tokenizer=folder)
    tokens = len(AutoTokenizer.from_pretrained(folder)("caption of a").input_ids)
    assert index[0].caption_tokens == tokens > 0
    assert index.column("caption_tokens", 0, 1).tolist() == [tokens]
    assert read_header(tmp_path / "out")["build"]["--tokenizer"] == str(folder)
    with pytest.raises(BuildError, match=r"--tokenizer .*: no such folder"):
        build(BuildOptions(source, tmp_path / "other", "copy", tokenizer=tmp_path / "nowhere"))
    with pytest.raises(BuildError, match=r"--tokenizer .*: holds no tokenizer"):
        build(BuildOptions(source, tmp_path / "other", "copy", tokenizer=source))

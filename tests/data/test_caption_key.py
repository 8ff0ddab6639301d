"""Captions that stand in the json of a sample."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.data.clip_files import clip_bytes
from tests.data.small_plan import SmallPlan
from tests.data.tar_files import write_tar
from vidtron.config.data import DataConfig
from vidtron.data.building.build_state import BuildError
from vidtron.data.building.clip_source import SourceError
from vidtron.data.building.shard_indexer import IndexOptions, index_shards
from vidtron.data.building.shard_writer import BuildOptions, build
from vidtron.data.decoding.loader import ClipLoader
from vidtron.data.errors import DamagedSampleError
from vidtron.data.shards.index import ShardIndex
from vidtron.data.shards.sample_json import caption_at

GOOD = clip_bytes(20, "mjpeg")


@pytest.mark.parametrize(
    ("key", "caption"),
    [("a", "one"), ("b.c", "whole name"), ("d.e.1", "third"), ("d.f", "fourth")],
)
def test_keys(key: str, caption: str) -> None:
    entries = {"a": " one\n", "b.c": "whole name", "b": {"c": "inner"}, "d": {"e": ["second", "third"], "f": "fourth"}}
    assert caption_at(entries, key) == caption


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("x", "has no x"),
        ("a.b", r"has no a\.b"),
        ("n", "no text at n"),
        ("l", "no text at l"),
        ("l.2", r"has no l\.2"),
        ("l.-1", r"has no l\.-1"),
        ("v", "empty text at v"),
    ],
)
def test_keys_without_a_text(key: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        caption_at({"a": "one", "n": 3, "l": ["x", "y"], "v": " "}, key)
    with pytest.raises(ValueError, match="has no"):
        caption_at(["a"], key)


def about(**entries: Any) -> bytes:
    return json.dumps(entries).encode()


def mixed(folder: Path) -> Path:
    """A tar whose samples have captions here and there."""
    write_tar(
        folder / "x.tar",
        [
            ("both.mp4", GOOD),
            ("both.txt", b"short"),
            ("both.json", about(captions={"long": "grüße in the json"}, score_a=1)),
            ("json.mp4", GOOD),
            ("json.json", about(captions={"long": "only there"})),
            ("other.mp4", GOOD),
            ("other.txt", b"in the text"),
            ("other.json", about(captions={})),
            ("text.mp4", GOOD),
            ("text.txt", b"without json"),
            ("none.mp4", GOOD),
            ("none.json", about(captions={"long": 3})),
            ("broken.mp4", GOOD),
            ("broken.json", b"{"),
        ],
    )
    return folder


CAPTIONS = {"both": "grüße in the json", "json": "only there", "other": "in the text", "text": "without json"}


def test_an_index_of_captions_in_json(tmp_path: Path) -> None:
    folder = mixed(tmp_path / "in")
    result = index_shards(IndexOptions(folder, caption_key="captions.long"))
    index = ShardIndex.open([folder])
    assert {one.key: one.caption() for one in index} == CAPTIONS
    assert [one.caption_characters for one in index] == [len(caption) for caption in CAPTIONS.values()]
    assert [set(one.members) for one in index][:2] == [{"mp4", "json"}] * 2
    assert [one.reason for one in result.flawed] == [
        "its .json has no captions.long; its .txt is the caption",
        "it has no .json; its .txt is the caption",
    ]
    reasons = {one.key: one.reason for one in result.skipped}
    assert reasons["none"] == "it has no caption (its .json has no text at captions.long, and there is no .txt)"
    assert "no JSON" in reasons["broken"]
    with ClipLoader(SmallPlan(index), DataConfig(decoder="pyav"), range(4), num_workers=1) as loader:  # type: ignore
        assert [clip.caption for clip in loader] == list(CAPTIONS.values())


def test_without_the_key_its_flag_is_named(tmp_path: Path) -> None:
    result = index_shards(IndexOptions(mixed(tmp_path)))
    assert {one.key: one.reason for one in result.skipped}["json"] == (
        "it has no caption (.txt; --caption-key takes it from the .json)"
    )
    assert [one.caption() for one in ShardIndex.open([tmp_path])] == ["short", "in the text", "without json"]


def test_a_json_that_has_changed_is_a_bad_sample(tmp_path: Path) -> None:
    index_shards(IndexOptions(mixed(tmp_path), caption_key="captions.long"))
    path = tmp_path / "x.tar"
    with tarfile.open(path) as tar:
        place = tar.getmember("json.json").offset_data
    content = bytearray(path.read_bytes())
    content[place : place + 1] = b"["
    path.write_bytes(content)
    sample = ShardIndex.open([tmp_path])[1]
    with pytest.raises(DamagedSampleError, match=r"sample json .* no JSON"):
        sample.caption()


def test_a_json_of_another_sample_is_a_bad_sample(tmp_path: Path) -> None:
    """The tar's header before it must name it."""
    index_shards(IndexOptions(mixed(tmp_path), caption_key="captions.long"))
    path = tmp_path / "x.tar"
    with tarfile.open(path) as tar:
        member = tar.getmember("json.json")
    member.name = "else.json"
    content = bytearray(path.read_bytes())
    content[member.offset : member.offset_data] = member.tobuf(tarfile.GNU_FORMAT)
    path.write_bytes(content)
    sample = ShardIndex.open([tmp_path])[1]
    with pytest.raises(DamagedSampleError, match=r"sample json .* its \.json: the index leads to else\.json instead"):
        sample.caption()


@pytest.mark.parametrize("kind", ["tar", "folder", "jsonl", "csv"])
def test_builds(tmp_path: Path, kind: str) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    expected, key = CAPTIONS, "captions.long"
    if kind == "tar":
        source = mixed(tmp_path / "in")
    else:
        with tarfile.open(mixed(tmp_path / "in") / "x.tar") as tar:
            for member in tar:  # `extractall` has no filter before Python 3.11.4, and warns without one from 3.12
                (clips / member.name).write_bytes(tar.extractfile(member).read())
        source = clips
    if kind in ("jsonl", "csv"):
        expected = {name: expected[name] for name in ("both", "json")}
        source = clips / f"t.{kind}"
        key = key if kind == "jsonl" else "long"
        rows = [json.dumps({"path": f"{n}.mp4", "captions": {"long": c}}) for n, c in expected.items()]
        text = (
            "\n".join(rows)
            if kind == "jsonl"
            else "path,long\n" + "".join(f"{n}.mp4,{c}\n" for n, c in expected.items())
        )
        source.write_text(text)
    result = build(BuildOptions((str(source),), tmp_path / "out", "copy", caption_key=key))
    index = ShardIndex.open([tmp_path / "out"])
    assert {one.key: one.caption() for one in index} == expected
    assert all("txt" in one.members for one in index)
    assert len(result.flawed) == (2 if kind in ("tar", "folder") else 0)
    assert len(result.skipped) == (2 if kind in ("tar", "folder") else 0)
    if kind != "csv":
        assert (
            json.loads(next(one for one in index if one.key == "json").read("json"))["captions"]["long"]
            == "only there"
        )


def test_a_table_without_the_column(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,caption\na.mp4,words\n")
    with pytest.raises(SourceError, match=r"accepted: path and long \(--caption-key\)"):
        build(BuildOptions((str(tmp_path / "t.csv"),), tmp_path / "out", "copy", caption_key="long"))


def test_other_keys_are_another_build(tmp_path: Path) -> None:
    source = mixed(tmp_path / "in")
    build(BuildOptions(source, tmp_path / "out", "copy", caption_key="captions.long"))
    with pytest.raises(BuildError, match=r"--caption-key was captions\.long, is None"):
        build(BuildOptions(source, tmp_path / "out", "copy"))

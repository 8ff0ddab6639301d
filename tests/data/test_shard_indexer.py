import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.data.clip_files import build_shards, clip_bytes, damaged, image_bytes
from vidtron.data.building.build_state import BuildError
from vidtron.data.building.shard_indexer import IndexOptions, index_shards
from vidtron.data.shards.index import INDEX_NAME, ShardIndex
from vidtron.data.shards.index_file import read_header

GOOD = clip_bytes(5, "mjpeg")


def write_tar(path: Path, members: dict[str, bytes] | list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items() if isinstance(members, dict) else members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def indexed(folder: Path, **options: Any) -> tuple[list[str], dict[str, str]]:
    """(keys of the index, reason for each skipped key)."""
    result = index_shards(IndexOptions(folder, **options))
    assert not (folder / ".index").exists()
    named = folder / "skipped.jsonl"
    lines = [json.loads(line) for line in named.read_text().splitlines()] if named.exists() else []
    assert len(lines) == len(result.skipped)
    index = ShardIndex.open([folder])
    assert len(index) == result.samples
    return [sample.key for sample in index], {line["key"]: line["reason"] for line in lines}


def test_the_index_of_a_build_is_made_again(tmp_path: Path) -> None:
    clips = {name: clip_bytes(5 + i, seconds=[0.1 * j * j for j in range(5 + i)]) for i, name in enumerate("abc")}
    before = build_shards(tmp_path, clips, samples_per_shard=2)
    folder = before.folders[0]
    (folder / INDEX_NAME).unlink()
    (folder / "index.jsonl").touch()
    assert indexed(folder) == (["a", "b", "c"], {})
    after = ShardIndex.open([folder])
    assert list(after) == list(before) and after.fingerprint == before.fingerprint
    assert after[0].clip.times is not None


def test_tars_of_other_origin(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", {"deep/a.b.WEBM": b"", "deep/c.mkv": clip_bytes(5, container="matroska")})
    write_tar(
        tmp_path / "y.tar",
        [
            ("d/e.JPG", image_bytes("JPEG")),
            ("d/e.txt", b" words \n"),
            ("d/e.cls", b"1"),
            ("f.json", b'{"score_a": "1.5", "motion": 2, "text": "x"}'),
            ("f.txt", "grüße".encode()),
            ("f.png", image_bytes("PNG")),
            ("f.mp4", GOOD),
        ],
    )
    keys, skipped = indexed(tmp_path, scores=("motion",))
    assert keys == ["d/e", "f"]
    assert "no video or image, only .b.webm" in skipped["deep/a"] and "no caption" in skipped["deep/c"]
    image, clip = ShardIndex.open([tmp_path])
    assert (image.media, image.image, image.caption(), set(image.members)) == ("jpg", True, "words", {"jpg", "txt"})
    assert image.read("jpg") == image_bytes("JPEG")
    assert (clip.media, clip.image, clip.caption(), clip.caption_characters) == ("mp4", False, "grüße", 5)
    index = ShardIndex.open([tmp_path])
    assert index.scores == ("score_motion", "score_a")
    assert index.column("score_motion", 1, 2).tolist() == [2.0] and index.column("score_a", 1, 2).tolist() == [1.5]


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "a.tar",
        [
            ("good.mp4", GOOD),
            ("good.txt", b"words"),
            ("mute.mp4", GOOD),
            ("latin.mp4", GOOD),
            ("latin.txt", "grüße".encode("latin-1")),
            ("void.mp4", GOOD),
            ("void.txt", b" \n"),
            ("broken.mp4", damaged(clip_bytes(5))),
            ("broken.txt", b"words"),
            ("empty.mp4", b""),
            ("empty.txt", b"words"),
            ("many.png", GOOD),
            ("many.txt", b"words"),
            ("json.mp4", GOOD),
            ("json.txt", b"words"),
            ("json.json", b"{"),
            ("good.mp4", GOOD),
            ("good.txt", b"words"),
        ],
    )
    write_tar(tmp_path / "b.tar", {"good.mp4": GOOD, "good.txt": b"words", "fine.mp4": GOOD, "fine.txt": b"words"})
    (tmp_path / "c.tar").write_bytes(b"this is no tar" * 100)
    (tmp_path / "d.tar").touch()
    keys, skipped = indexed(tmp_path)
    assert keys == ["good", "json", "fine"]
    for key, reason in {
        "mute": "no caption",
        "latin": "no UTF-8",
        "void": "caption is empty",
        "broken": "",
        "empty": "",
        "many": "5 pictures",
        "good": "its key was there before",
        "": "the shard ends early",
    }.items():
        assert reason in skipped.pop(key)
    assert not skipped
    assert list(read_header(tmp_path)["shards"]) == ["a.tar", "b.tar"]
    (flaw,) = map(json.loads, (tmp_path / "flawed.jsonl").read_text().splitlines())
    assert flaw["key"] == "json" and flaw["reason"].startswith("its .json is no JSON")
    assert set(ShardIndex.open([tmp_path])[1].members) == {"mp4", "txt"}


def test_a_tar_that_ends_early_keeps_its_whole_samples(tmp_path: Path) -> None:
    members = {"a.mp4": GOOD, "a.txt": b"words", "b.mp4": GOOD, "b.txt": b"words"}
    whole = write_tar(tmp_path / "whole.tar", members)
    content = whole.read_bytes()
    with tarfile.open(whole) as tar:
        places = {info.name: (info.offset, info.offset_data) for info in tar}
    ends = {
        "video": (places["b.mp4"][1] + 10, {"a"}, {"": "b.mp4 is cut off"}),
        "header": (places["b.txt"][0] + 100, {"a"}, {"b": "ends inside it"}),
        "caption": (places["b.txt"][1] + 2, {"a"}, {"b": "ends inside it", "": "b.txt is cut off"}),
        "mark": (places["b.txt"][1] + 512, {"a", "b"}, {"": "no end mark"}),
        "samples": (places["b.mp4"][0], {"a"}, {"": "no end mark"}),
    }
    for name, (end, keys, reasons) in ends.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "cut.tar").write_bytes(content[:end])
        found, skipped = indexed(folder)
        assert set(found) == keys
        for key, reason in reasons.items():
            assert reason in skipped[key]


def test_folders_that_cannot_be_indexed(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="nowhere: no such folder"):
        index_shards(IndexOptions(tmp_path / "nowhere"))
    with pytest.raises(BuildError, match="holds no shards"):
        index_shards(IndexOptions(tmp_path))
    write_tar(tmp_path / "a.tar", {"a.txt": b"words"})
    with pytest.raises(BuildError, match=r"none of the 1 clips can be used; the first: .*a\.tar/a: it has no video"):
        index_shards(IndexOptions(tmp_path))
    write_tar(tmp_path / "a.tar", {"a.txt": b"words", "a.mp4": GOOD})
    with pytest.raises(BuildError, match="--scores motion: no sample has it"):
        index_shards(IndexOptions(tmp_path, scores=("motion",)))
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]
    with pytest.raises(BuildError, match="--tokenizer"):
        index_shards(IndexOptions(tmp_path, tokenizer=tmp_path))
    (tmp_path / ".build").mkdir()
    with pytest.raises(BuildError, match="unfinished build"):
        index_shards(IndexOptions(tmp_path))


def test_an_index_that_is_made_again_forgets_what_was_skipped(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"a.mp4": GOOD, "a.txt": b"words", "b.mp4": GOOD})
    assert indexed(tmp_path)[1].keys() == {"b"}
    shutil.copy(write_tar(tmp_path / "new" / "a.tar", {"a.mp4": GOOD, "a.txt": b"words"}), tmp_path / "a.tar")
    assert indexed(tmp_path) == (["a"], {})

import json
from pathlib import Path

import pytest

from tests.data.clip_files import build_shards, clip_bytes
from vidtron.data.index import INDEX_NAME, ShardError, ShardIndex


@pytest.fixture
def index(tmp_path: Path) -> ShardIndex:
    clips = {name: clip_bytes(5 + i, "mjpeg") for i, name in enumerate("abc")}
    return build_shards(tmp_path, clips, samples_per_shard=2)


def test_members_are_read_by_their_place(index: ShardIndex) -> None:
    assert [sample.key for sample in index] == ["a", "b", "c"]
    assert [sample.shard.name for sample in index] == ["shard-000000.tar"] * 2 + ["shard-000001.tar"]
    for i, sample in enumerate(index):
        assert sample.read("mp4") == clip_bytes(5 + i, "mjpeg")
        assert sample.caption() == f"caption of {sample.key}"
        assert sample.caption_characters == 12
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


def test_folders_are_joined_and_their_paths_do_not_count(index: ShardIndex, tmp_path: Path) -> None:
    folder = index.folders[0]
    assert len(ShardIndex.open([folder, folder])) == 6
    moved = folder.rename(tmp_path / "elsewhere")
    assert ShardIndex.open([moved]).fingerprint == index.fingerprint
    assert ShardIndex.open([moved, moved]).fingerprint != index.fingerprint


def test_missing_folders_and_indexes_name_the_tool(index: ShardIndex, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"nowhere: no such folder.*build_shards\.py"):
        ShardIndex.open([tmp_path / "nowhere"])
    with pytest.raises(ShardError, match=r"holds no shards.*build_shards\.py"):
        ShardIndex.open([tmp_path])
    (index.folders[0] / INDEX_NAME).unlink()
    with pytest.raises(ShardError, match="has shards but no finished index"):
        ShardIndex.open(index.folders)


def test_damage_is_found(index: ShardIndex) -> None:
    folder = index.folders[0]
    path = folder / INDEX_NAME
    whole = path.read_text()
    lines = whole.splitlines(keepends=True)
    for text, message in (
        ("".join(lines[:-1]), "2 of 3 samples"),
        (whole[:-30], "line 4 is damaged"),
        (lines[0].replace('"version": 1', '"version": 2'), "version 2; accepted: 1"),
        ("{}\n", "is not an index"),
        ("x\n", "is no JSON"),
    ):
        path.write_text(text)
        with pytest.raises(ShardError, match=message):
            ShardIndex.open([folder])
    path.write_text(whole)
    shard = folder / "shard-000001.tar"
    shard.write_bytes(shard.read_bytes()[:-512])
    with pytest.raises(ShardError, match=r"shard-000001\.tar: has \d+ bytes where the index says"):
        ShardIndex.open([folder])
    shard.unlink()
    with pytest.raises(ShardError, match=r"shard-000001\.tar: is missing"):
        ShardIndex.open([folder])


def test_a_shard_that_shrinks_later_names_the_sample(index: ShardIndex) -> None:
    sample = index[2]
    sample.shard.write_bytes(sample.shard.read_bytes()[:700])
    with pytest.raises(ShardError, match="ends inside sample c"):
        sample.read("mp4")

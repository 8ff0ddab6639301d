"""Tars that webdataset reads one after the other, as inputs of a build and of an index."""

import errno
import json
import re
import shlex
import tarfile
from pathlib import Path
from typing import Any

import pytest
import webdataset

from tests.data.clip_files import clip_bytes, damaged, image_bytes
from tests.data.tar_files import write_tar
from vidtron.config.storage import StorageError
from vidtron.data.building import shard_writer
from vidtron.data.building.build_state import BuildError
from vidtron.data.building.shard_indexer import IndexOptions, folders_of, index_shards
from vidtron.data.building.shard_writer import BuildOptions, BuildResult, build
from vidtron.data.building.tar_sources import TarSource, expand, samples
from vidtron.data.building.transcode import Edit
from vidtron.data.shards.index import ShardIndex

GOOD = clip_bytes(5, "mjpeg")
SUFFIXES = {"tar.gz": "gzip", "tgz": "gzip", "tar.bz2": "bzip2", "tar.xz": "xz", "tar.zst": "zstd", "tar.lz4": "lz4"}


def sample(key: str, **about: Any) -> dict[str, bytes]:
    return {f"{key}.mp4": GOOD, f"{key}.txt": f"caption of {key}".encode(), f"{key}.json": json.dumps(about).encode()}


def built(output: Path, *inputs: str, **options: Any) -> tuple[BuildResult, ShardIndex]:
    result = build(BuildOptions(inputs, output, **{"codec": "copy", **options}))
    return result, ShardIndex.open([output])


@pytest.mark.parametrize("suffix", ["tar", *SUFFIXES])
def test_tars_are_repacked(tmp_path: Path, suffix: str) -> None:
    members = {**sample("deep/a", score_a=2.5, place="Rome", frames=99), "b.jpg": image_bytes("JPEG"), "b.txt": b"b"}
    tar = write_tar(tmp_path / f"x.{suffix}", members, SUFFIXES.get(suffix, ""))
    result, index = built(tmp_path / "out", str(tar))
    assert (result.samples, result.skipped, result.flawed) == (2, [], [])
    clip, image = index
    assert (clip.key, clip.caption(), clip.read("mp4")) == ("deep/a", "caption of deep/a", GOOD)
    about = json.loads(clip.read("json"))
    assert (about["place"], about["frames"], index.scores) == ("Rome", 5, ("score_a",))
    assert (image.key, image.media, image.read("jpg")) == ("b", "jpg", image_bytes("JPEG"))
    found = list(webdataset.WebDataset(str(tmp_path / "out" / "shard-000000.tar"), shardshuffle=False))
    assert [one["__key__"] for one in found] == ["deep/a", "b"]


def test_brace_lists_commands_and_folders(tmp_path: Path) -> None:
    for number in range(3):
        write_tar(tmp_path / f"in/x-{number}.tar.gz", sample(f"k{number}"), "gzip")
    everything = ["k0", "k1", "k2"]
    braces = str(tmp_path / "in/x-{0..2}.tar.gz")
    for name, inputs in {
        "braces": [braces],
        "commands": [f"pipe:cat {braces}"],
        "unpacked": [f"pipe:gzip -dc {braces}"],
        "joined": [f"{tmp_path}/in/x-0.tar.gz::{tmp_path}/in/x-{{1..2}}.tar.gz"],
        "folder": [str(tmp_path / "in")],
        "several": [str(tmp_path / "in/x-0.tar.gz"), braces],
    }.items():
        _, index = built(tmp_path / name, *inputs)
        assert [one.key for one in index] == everything, name
    index = ShardIndex.open([tmp_path / "folder"])
    again = build(BuildOptions(tmp_path / "in", tmp_path / "path", "copy"))
    assert again.samples == 3 and ShardIndex.open([tmp_path / "path"]).fingerprint == index.fingerprint


def test_keys_that_come_again_are_kept_apart(tmp_path: Path) -> None:
    for name in "ab":
        write_tar(tmp_path / f"{name}.tar", {**sample("000"), **sample("../../out/of/it"), **sample("/etc/x")})
    _, index = built(tmp_path / "out", str(tmp_path / "{a,b}.tar"))
    keys = ["000", "out/of/it", "etc/x"]
    assert [one.key for one in index] == [*keys, *(f"{key}_2" for key in keys)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "b.tar", "out"]


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    members = {
        **sample("good"),
        "mute.mp4": GOOD,
        "bad.mp4": damaged(clip_bytes(5)),
        "bad.txt": b"words",
        "only.txt": b"words",
        "flawed.mp4": GOOD,
        "flawed.txt": b"words",
        "flawed.json": b"[" * 200_000,
    }
    cut = write_tar(tmp_path / "cut.tar", {**sample("whole"), **sample("lost")})
    with tarfile.open(cut) as tar:
        place = tar.getmember("lost.mp4").offset
    content = cut.read_bytes()
    for name, end in {"cut": place, "header": place + 100, "video": place + 1000}.items():
        (tmp_path / f"{name}.tar").write_bytes(content[:end])
    squeezed = write_tar(tmp_path / "squeezed.tgz", sample("squeezed"), "gzip")
    squeezed.write_bytes(squeezed.read_bytes()[:-20])
    write_tar(tmp_path / "x.tar", members)
    (tmp_path / "none.tar").write_bytes(b"no tar" * 1000)
    joined = shlex.quote(str(tmp_path / "x.tar"))
    inputs = [
        str(tmp_path / "{x.tar,cut.tar,header.tar,video.tar,none.tar,squeezed.tgz}"),
        f"pipe:cat {joined}; exit 3",
        f"pipe:cat {joined} {joined}",
    ]
    result, index = built(tmp_path / "out", *inputs)
    assert [one.key for one in index][:3] == ["good", "flawed", "whole"]
    reasons = {(one.path, one.key): one.reason for one in result.skipped}
    assert "no caption" in reasons[f"{tmp_path}/x.tar/mute", "mute"]
    assert "no video or image, only .txt" in reasons[f"{tmp_path}/x.tar/only", "only"]
    assert f"{tmp_path}/x.tar/bad" in {path for path, _ in reasons}
    for name, told in {
        "cut.tar": "it has no end mark",
        "header.tar": "it has no end mark",
        "video.tar": "unexpected end of data",
        "none.tar": "invalid header",
        "squeezed.tgz": "",
    }.items():
        assert re.search(f"cannot be read to its end .*{told}", reasons[f"{tmp_path}/{name}", ""]), name
    assert "its command ends with status 3" in reasons[inputs[1], ""]
    assert "one by one" in reasons[inputs[2], ""]
    assert result.flawed[0].path == f"{tmp_path}/x.tar/flawed"
    assert "no JSON" in result.flawed[0].reason
    named = (tmp_path / "out" / "flawed.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in named] == [one.key for one in result.flawed]


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("x-{0..1}.tar", r"x-0\.tar \(of x-\{0\.\.1\}\.tar\): no such file"),
        ("x-{0..1.tar::y-}.tar", "no such file|cannot be expanded"),
        ("${NOWHERE}/x.tar", "cannot be expanded .*NOWHERE"),
        ("s4://bucket/x.tar", "webdataset opens no s4: URLs; accepted: a 'pipe:COMMAND' that reads it"),
        ("pipe:false", "none of the 1 clips .*empty file; its command ends with status 1"),
    ],
)
def test_inputs_that_give_nothing(tmp_path: Path, argument: str, told: str) -> None:
    with pytest.raises(BuildError, match=told):
        build(BuildOptions((argument,), tmp_path / "out", "copy"))


def test_tars_and_clips_are_not_mixed(tmp_path: Path) -> None:
    write_tar(tmp_path / "in/x.tar", sample("a"))
    (tmp_path / "in/b.mp4").write_bytes(GOOD)
    with pytest.raises(BuildError, match="holds tars and clips"):
        build(BuildOptions((str(tmp_path / "in"),), tmp_path / "out", "copy"))
    (tmp_path / "table.csv").write_text("path,caption\n")
    with pytest.raises(BuildError, match=r"table\.csv: holds no tars; accepted as one of several inputs"):
        build(BuildOptions((str(tmp_path / "in/x.tar"), str(tmp_path / "table.csv")), tmp_path / "out", "copy"))


@pytest.mark.parametrize("workers", [1, 3])
def test_an_interrupted_build_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    for name in "xy":
        write_tar(
            tmp_path / f"{name}.tar.gz", {k: v for n in range(4) for k, v in sample(f"{name}{n}").items()}, "gzip"
        )
    inputs = (str(tmp_path / "{x,y}.tar.gz"),)
    built(tmp_path / "whole", *inputs, samples_per_shard=2)
    make = shard_writer.make_piece
    made: list[str] = []

    def stumble(piece: shard_writer.Piece, codec: Any) -> object:
        made.append(piece.key)
        if piece.key == "y1" and made.count("y1") == 1:
            raise KeyboardInterrupt
        return make(piece, codec)

    monkeypatch.setattr(shard_writer, "make_piece", stumble)
    options = BuildOptions(inputs, tmp_path / "broken", "copy", samples_per_shard=2, workers=workers)
    with pytest.raises(KeyboardInterrupt):
        build(options)
    assert not list((tmp_path / "broken").glob("*.tmp")) and not list((tmp_path / "broken").glob(".*.tmp"))
    made[:] = ["y1"]
    build(options)
    assert sorted(made[1:]) == ["y0", "y1", "y2", "y3"]
    contents = [{p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("whole", "broken")]
    assert contents[0] == contents[1]
    assert build(options).already_complete


def test_what_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tar(tmp_path / "x.tar", {**sample("x0"), **sample("x1")})

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("vidtron.data.building.shard_file._add_sample", full)
    with pytest.raises(StorageError, match=r"out: cannot be written \(No space left on device\); make room there"):
        built(tmp_path / "out", str(tmp_path / "x.tar"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".build"]


def test_words_longer_than_a_name(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", sample("x0"))
    comment = "x" * 300
    assert built(tmp_path / "out", f"pipe:cat {tmp_path}/x.tar # {comment}")[0].samples == 1
    joined = "::".join([str(tmp_path / "x.tar")] * 200)
    assert built(tmp_path / "joined", joined)[0].samples == 1
    with pytest.raises(BuildError, match=r"a name too long for a file system; accepted: at most 255 bytes"):
        built(tmp_path / "none", f"{tmp_path}/{{a,b}}{comment}.tar")


def test_another_input_is_no_continuation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The output of a command is not known beforehand."""
    for name in "xy":
        write_tar(tmp_path / f"{name}.tar", {**sample(f"{name}0"), **sample(f"{name}1")})
    options = BuildOptions((f"pipe:cat {tmp_path}/now.tar",), tmp_path / "out", "copy", samples_per_shard=1, workers=1)
    (tmp_path / "now.tar").symlink_to(tmp_path / "x.tar")
    make = shard_writer.make_piece

    def stop(piece: shard_writer.Piece, codec: Any) -> object:
        if piece.key == "x1":
            raise KeyboardInterrupt
        return make(piece, codec)

    monkeypatch.setattr(shard_writer, "make_piece", stop)
    with pytest.raises(KeyboardInterrupt):
        build(options)
    (tmp_path / "now.tar").unlink()
    (tmp_path / "now.tar").symlink_to(tmp_path / "y.tar")
    with pytest.raises(BuildError, match="holds a build of other samples than --input gives now"):
        build(options)


def test_clips_of_tars_are_edited(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar", {"a.mp4": clip_bytes(25, fps=10), "a.txt": b"words"})
    result, index = built(tmp_path / "out", str(tar), codec="mjpeg", cut_seconds=1.0, edit=Edit(height=24))
    assert [(one.key, one.clip.frames, one.clip.height) for one in index] == [("a-0000", 10, 24), ("a-0001", 10, 24)]
    assert result.left_over_seconds == pytest.approx(0.5, abs=0.05)


def test_scores_of_tars(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar", {**sample("a", motion=1), **sample("b"), **sample("c", motion="high")})
    result, index = built(tmp_path / "out", str(tar), scores=("motion",))
    assert [one.key for one in index] == ["a", "b"] and index.scores == ("score_motion",)
    assert result.skipped[0].reason == "its motion is no number: 'high'"
    with pytest.raises(BuildError, match="--scores beauty: no sample has it"):
        built(tmp_path / "other", str(tar), scores=("beauty",))


def test_names_of_files_are_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a folder, a table, a tar or an index names is a file, however it is called."""
    monkeypatch.chdir(tmp_path)
    command = "pipe:touch ran;.tar"
    write_tar(Path(command), sample("a"))
    write_tar(Path("in") / command, sample("pipe:touch ran"))
    assert [one.name for one in expand(".")] == [command]
    assert [one["__key__"] for one in samples(TarSource(command, Path(command)), pytest.fail)] == ["a"]
    built(tmp_path / "out", "in")
    index_shards(IndexOptions(Path("in")))
    Path("t.csv").write_text("path,caption\npipe:touch ran,words\nconcat:a.mp4|b.mp4,words\n")
    with pytest.raises(BuildError, match="none of the 2 clips can be used"):
        built(tmp_path / "table", "t.csv")
    assert not Path("ran").exists()


def test_tars_that_cannot_be_indexed_are_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", sample("a"))
    write_tar(tmp_path / "b.tar.gz", sample("b"), "gzip")
    write_tar(tmp_path / "c.tar", sample("c"), "zstd")
    write_tar(tmp_path / "d.tgz", sample("d"))
    result = index_shards(IndexOptions(tmp_path))
    assert [one.key for one in ShardIndex.open([tmp_path])] == ["a"]
    reasons = {Path(one.path).name: one.reason for one in result.skipped}
    assert reasons.keys() == {"b.tar.gz", "c.tar", "d.tgz"}
    command = f"`python tools/build_shards.py --input {tmp_path}/b.tar.gz --output DIR` repacks it"
    assert "compressed (gzip)" in reasons["b.tar.gz"] and command in reasons["b.tar.gz"]
    assert "compressed (zstd)" in reasons["c.tar"] and "ends in .tar" in reasons["d.tgz"]
    (tmp_path / "a.tar").unlink()
    with pytest.raises(BuildError, match=r"holds no shards that can be indexed; .*b\.tar\.gz: it is compressed"):
        index_shards(IndexOptions(tmp_path))


def test_arguments_of_an_index(tmp_path: Path) -> None:
    for folder in "mn":
        for number in range(3):
            write_tar(tmp_path / folder / f"x-{number}.tar", sample(f"{folder}{number}"))
    braces = str(tmp_path / "m/x-{0..1}.tar")
    folders, elsewhere = folders_of([braces, f"pipe:cat {braces}", str(tmp_path / "n")])
    chosen = (tmp_path / "m/x-0.tar", tmp_path / "m/x-1.tar")
    assert folders == {tmp_path / "m": chosen, tmp_path / "n": None}
    assert [one.path for one in elsewhere] == [f"pipe:cat {path}" for path in chosen]
    assert f"--input 'pipe:cat {chosen[0]}' --output DIR" in elsewhere[0].reason
    assert index_shards(IndexOptions(tmp_path / "m", tars=chosen)).samples == 2
    with pytest.raises(BuildError, match="it is the output of a command"):
        folders_of([f"pipe:cat {braces}"])
    with pytest.raises(BuildError, match="no local file"):
        folders_of(["https://host.invalid/x-{0..3}.tar"])

import json
from pathlib import Path

import pytest

from tests.data.clip_files import clip_bytes, damaged, write_clips
from vidtron.data.building import shard_writer
from vidtron.data.building.shard_writer import BuildError, BuildOptions, Progress, Skipped, build
from vidtron.data.building.transcode import Edit
from vidtron.data.shards.index import INDEX_NAME, ShardIndex


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_clips(tmp_path / "clips", {f"c{i}": clip_bytes(6 + i, "mjpeg") for i in range(7)})


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


class Counting(Progress):
    def __init__(self) -> None:
        self.begun = (0, 0)
        self.skipped: list[Skipped | None] = []
        self.shards: list[tuple[str, int]] = []

    def begin(self, pieces: int, done: int) -> None:
        self.begun = (pieces, done)

    def piece(self, skipped: Skipped | None) -> None:
        self.skipped.append(skipped)

    def shard(self, name: str, samples: int) -> None:
        self.shards.append((name, samples))


def test_a_build(source: Path, tmp_path: Path) -> None:
    progress = Counting()
    result = build(BuildOptions(source, tmp_path / "out", "copy", samples_per_shard=3), progress)
    assert (result.samples, result.shards, result.skipped) == (7, 3, [])
    assert progress.begun == (7, 0) and progress.skipped == [None] * 7
    assert progress.shards == [("shard-000000.tar", 3), ("shard-000001.tar", 3), ("shard-000002.tar", 1)]
    assert sorted(content_of(tmp_path / "out")) == [INDEX_NAME, *(f"shard-00000{i}.tar" for i in range(3))]
    index = ShardIndex.open([tmp_path / "out"])
    assert [sample.key for sample in index] == [f"c{i}" for i in range(7)]
    assert index[0].read("mp4") == (source / "videos" / "c0.mp4").read_bytes()


@pytest.mark.parametrize("workers", [1, 3])
def test_an_interrupted_build_goes_on(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    options = BuildOptions(source, tmp_path / "whole", "vp9", samples_per_shard=2, workers=workers)
    build(options)
    made: list[str] = []
    make = shard_writer.make_piece

    def stumble(piece: shard_writer.Piece, codec: str) -> object:
        made.append(piece.key)
        if piece.key == "c5" and "c5" not in made[:-1]:
            raise KeyboardInterrupt
        return make(piece, codec)  # type: ignore[arg-type]

    monkeypatch.setattr(shard_writer, "make_piece", stumble)
    broken = BuildOptions(source, tmp_path / "broken", "vp9", samples_per_shard=2, workers=workers)
    with pytest.raises(KeyboardInterrupt):
        build(broken)
    assert not (tmp_path / "broken" / INDEX_NAME).exists()
    assert (tmp_path / "broken" / "shard-000001.tar").exists()
    made.clear()
    made.append("c5")
    progress = Counting()
    build(broken, progress)
    assert progress.begun == (7, 4)
    assert sorted(made[1:]) == ["c4", "c5", "c6"]
    assert content_of(tmp_path / "broken") == content_of(tmp_path / "whole")


def test_a_finished_build_is_left_alone(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = BuildOptions(source, tmp_path / "out", "copy", samples_per_shard=3)
    first = build(options)
    monkeypatch.setattr(shard_writer, "make_piece", None)
    again = build(options)
    assert again.already_complete
    assert (again.samples, again.shards) == (first.samples, first.shards)


def test_other_arguments_are_refused(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(BuildOptions(source, out, "copy"))
    with pytest.raises(BuildError, match=r"--codec was copy, is vp9; --height was None, is 24"):
        build(BuildOptions(source, out, "vp9", Edit(height=24)))
    write_clips(source, {"new": clip_bytes(5, "mjpeg")})
    with pytest.raises(BuildError, match="clips of --input was 7 samples"):
        build(BuildOptions(source, out, "copy"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").touch()
    with pytest.raises(BuildError, match="holds other files"):
        build(BuildOptions(source, tmp_path / "full", "copy"))


def test_bad_clips_are_skipped_and_named(tmp_path: Path) -> None:
    good = clip_bytes(8, "mjpeg")
    source = write_clips(tmp_path / "clips", {"a": good, "b": damaged(clip_bytes(8)), "c": good, "d": b"", "e": good})
    (source / "labels" / "c.txt").unlink()
    for codec in ("copy", "vp9"):
        out = tmp_path / codec
        result = build(BuildOptions(source, out, codec, samples_per_shard=2))  # type: ignore[arg-type]
        assert (result.samples, result.shards) == (2, 2)  # the second shard would be empty
        assert [one.key for one in result.skipped] == ["b", "c", "d"]
        assert "no caption" in result.skipped[1].reason
        named = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
        assert [one["path"] for one in named] == [str(source / "videos" / f"{key}.mp4") for key in "bcd"]
        assert [sample.key for sample in ShardIndex.open([out])] == ["a", "e"]


def test_no_clip_at_all(tmp_path: Path) -> None:
    source = write_clips(tmp_path / "clips", {"a": b"x"})
    with pytest.raises(BuildError, match=r"none of the 1 clips can be used; the first: .*a\.mp4: Invalid data"):
        build(BuildOptions(source, tmp_path / "out", "copy"))
    assert not (tmp_path / "out" / INDEX_NAME).exists()


def test_cutting_into_pieces(tmp_path: Path) -> None:
    source = write_clips(tmp_path / "clips", {"long": clip_bytes(38, fps=10), "short": clip_bytes(6, fps=10)})
    result = build(BuildOptions(source, tmp_path / "out", "mjpeg", cut_seconds=1.2))
    index = ShardIndex.open([tmp_path / "out"])
    assert [(s.key, s.clip.frames) for s in index] == [
        ("long-0000", 12),
        ("long-0001", 12),
        ("long-0002", 12),
        ("short-0000", 6),
    ]
    assert {sample.caption() for sample in index} == {"caption of long", "caption of short"}
    assert result.left_over_seconds == pytest.approx(0.2, abs=0.01)


def test_a_clip_in_the_wanted_codec_is_not_encoded_again(tmp_path: Path) -> None:
    content = clip_bytes(8, "vp9")
    source = write_clips(tmp_path / "clips", {"vp9": content, "h264": clip_bytes(8)})
    build(BuildOptions(source, tmp_path / "out", "vp9"))
    other, same = ShardIndex.open([tmp_path / "out"])
    assert same.read("mp4") == content
    assert other.clip.codec == "vp9"


def test_copied_clips_become_mp4(tmp_path: Path) -> None:
    source = write_clips(tmp_path / "clips", {"a": clip_bytes(8)})
    video = source / "videos" / "a.mp4"
    video.unlink()
    video.with_suffix(".mkv").write_bytes(clip_bytes(8, container="matroska"))
    build(BuildOptions(source, tmp_path / "out", "copy"))
    sample = ShardIndex.open([tmp_path / "out"])[0]
    assert sample.read("mp4")[4:8] == b"ftyp" and sample.clip.frames == 8


def test_long_and_foreign_names_fit_into_a_tar(tmp_path: Path) -> None:
    names = ["deep/" + "x" * 150, "ünïcode 日本"]
    source = write_clips(tmp_path / "clips", dict.fromkeys(names, clip_bytes(3, "mjpeg")))
    build(BuildOptions(source, tmp_path / "out", "copy"))
    for sample in ShardIndex.open([tmp_path / "out"]):
        assert sample.read("mp4") == clip_bytes(3, "mjpeg")
        assert sample.caption().startswith("caption of")


@pytest.mark.parametrize(
    ("changed", "flag"),
    [
        ({"codec": "copy", "edit": Edit(height=24)}, "--codec copy"),
        ({"codec": "copy", "cut_seconds": 1.0}, "--codec copy"),
        ({"edit": Edit(height=0)}, "--height 0"),
        ({"edit": Edit(start=-1)}, "--start -1"),
        ({"edit": Edit(fps=0)}, "--fps 0"),
        ({"edit": Edit(seconds=-2)}, "--max-seconds -2"),
        ({"cut_seconds": 0.0}, "--cut-seconds 0"),
        ({"samples_per_shard": 0}, "--samples-per-shard 0"),
        ({"workers": 0}, "--workers 0"),
    ],
)
def test_bad_arguments(source: Path, tmp_path: Path, changed: dict[str, object], flag: str) -> None:
    with pytest.raises(BuildError, match=flag):
        build(BuildOptions(source, tmp_path / "out", **{"codec": "vp9", **changed}))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()

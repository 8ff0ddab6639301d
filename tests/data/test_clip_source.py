import json
from pathlib import Path

import pytest

from vidtron.data.building.clip_source import SourceError, list_clips
from vidtron.data.building.pieces import clean_key, list_pieces
from vidtron.data.building.transcode import Edit


def touch(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_videos_and_labels(tmp_path: Path) -> None:
    for name in ("b.mp4", "a.webm", "deep/c.MOV", "notes.md"):
        touch(tmp_path / "videos" / name)
    touch(tmp_path / "labels" / "b.txt", "  first line\nsecond   line \n")
    touch(tmp_path / "labels" / "deep" / "c.txt", "\n")
    clips = list_clips(tmp_path)
    assert [(clip.name, clip.caption) for clip in clips] == [
        ("a", None),
        ("b", "first line second line"),
        ("deep/c", None),
    ]
    assert "no caption" in clips[0].problem and "is empty" in clips[2].problem


def test_side_by_side(tmp_path: Path) -> None:
    touch(tmp_path / "x.1.mp4")
    touch(tmp_path / "x.1.txt", "dotted")
    touch(tmp_path / "sub" / "y.mkv")
    touch(tmp_path / "sub" / "y.txt", "below")
    assert [(clip.name, clip.caption) for clip in list_clips(tmp_path)] == [("sub/y", "below"), ("x.1", "dotted")]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_tables(tmp_path: Path, kind: str) -> None:
    rows = [
        {"path": "clips/a.mp4", "caption": "one, two", "score": "3"},
        {"path": str(tmp_path / "abs" / "b.mp4"), "caption": "", "score": "4"},
    ]
    if kind == "jsonl":
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        mark = "," if kind == "csv" else "\t"
        text = mark.join(rows[0]) + "\n" + "".join(mark.join(f'"{v}"' for v in row.values()) + "\n" for row in rows)
    first, second = list_clips(touch(tmp_path / f"table.{kind}", text))
    assert (first.path, first.name, first.caption) == (tmp_path / "clips/a.mp4", "clips/a", "one, two")
    assert first.extra == {"score": "3"}
    assert second.path == tmp_path / "abs" / "b.mp4"
    assert second.caption is None and "row 2" in second.problem


def test_text_is_a_caption_column_too(tmp_path: Path) -> None:
    assert list_clips(touch(tmp_path / "t.csv", "path,text\na.mp4,words\n"))[0].caption == "words"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "file,caption\na,b\n", "columns file, caption; accepted: path and caption"),
        ("t.csv", "path,caption\n,b\n", "row 1 has an empty path"),
        ("t.jsonl", "{\n", "line 1 is no JSON"),
        ("t.jsonl", "[1]\n", "no JSON object"),
        ("t.jsonl", '{"path": ' + "[" * 100_000 + "\n", r"t\.jsonl: line 1 is no JSON \(it is nested deeper than"),
        ("t.csv", "path,caption\na.mp4," + "x" * 200_000 + "\n", r"t\.csv: cannot be read \(field larger than"),
        ("t.jsonl", "", "no clips in it"),
        ("t.xml", "", "accepted: a folder, or a .csv"),
    ],
)
def test_bad_tables(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        list_clips(touch(tmp_path / name, text))


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no clips in it"):
        list_clips(tmp_path)
    with pytest.raises(SourceError, match="no such file"):
        list_clips(tmp_path / "missing")


def test_keys_are_plain_and_unique(tmp_path: Path) -> None:
    assert clean_key("a.b c/d:e") == "a_b_c/d_e"
    assert clean_key("../x") == "_/x"
    assert clean_key("日本") == "日本"
    for name in ("x.mp4", "x.webm", "x_2.mp4"):
        touch(tmp_path / name)
        touch((tmp_path / name).with_suffix(".txt"), "words")
    pieces, _ = list_pieces(list_clips(tmp_path), Edit(), None)
    assert [piece.key for piece in pieces] == ["x", "x_2", "x_2_2"]

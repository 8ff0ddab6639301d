"""Reading, joining and moving tables."""

import shutil

import pyarrow as pa
import pytest

from tests.curation.steps import rows_in, write_rows
from vidtron.curation.join import join
from vidtron.curation.run import run_table_step
from vidtron.curation.table import CurationError, read_table

NAMES = ("--input A", "--other B")
FIRST = pa.table({"path": ["/1", "/2", "/3"], "flow": [1.0, None, 3.0], "error": [None, None, "x"]})
SECOND = pa.table({"path": ["/3", "/2", "/4"], "text": ["c", "b", "d"], "flow": [9.0, 2.0, 4.0], "error": [None] * 3})
SECOND = SECOND.set_column(3, "error", SECOND["error"].cast(pa.string()))


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("left", [("/1", 1.0, None), ("/2", 2.0, "b"), ("/3", 3.0, "c")]),
        ("intersection", [("/2", 2.0, "b"), ("/3", 3.0, "c")]),
        ("append", [("/1", 1.0, None), ("/2", None, None), ("/3", 3.0, None), ("/4", 4.0, "d")]),
    ],
)
def test_joins(how, expected):
    joined = join(FIRST, SECOND, how, NAMES)
    assert [(row["path"], row["flow"], row["text"]) for row in joined.to_pylist()] == expected
    assert joined.column_names == ["path", "flow", "text", "error"]


def test_what_is_left_to_do():
    left = join(FIRST, SECOND, "difference", NAMES)
    assert left["path"].to_pylist() == ["/1"] and left.column_names == FIRST.column_names


def test_what_cannot_be_joined():
    twice = pa.table({"path": ["/1", "/1"]})
    with pytest.raises(CurationError, match="--other B: /1 is in it more than once"):
        join(FIRST, twice, "left", NAMES)
    with pytest.raises(CurationError, match="--input A and --other B"):
        join(FIRST, pa.table({"path": ["/1"], "flow": ["fast"]}), "left", NAMES)


def test_a_folder_of_tables_and_clips_can_be_moved(tmp_path):
    here = tmp_path / "here"
    rows = [{"path": "clips/a.mp4", "source": "/far/b.mp4"}, {"path": str(here / "c.mp4"), "source": None}]
    here.mkdir()
    source = write_rows(here / "in.parquet", rows)
    table = read_table(source)
    assert table["path"].to_pylist() == [str(here / "clips/a.mp4"), str(here / "c.mp4")]
    run_table_step("copy", {}, {"--input": source}, here / "out.parquet", lambda: table)
    run_table_step("copy", {}, {"--input": source}, tmp_path / "out.parquet", lambda: table)
    assert [row["path"] for row in rows_in(here / "out.parquet")] == ["clips/a.mp4", "c.mp4"]
    assert rows_in(tmp_path / "out.parquet")[0] == {"path": "here/clips/a.mp4", "source": "/far/b.mp4"}
    shutil.move(here, tmp_path / "there")
    assert read_table(tmp_path / "there/out.parquet")["path"].to_pylist()[1] == str(tmp_path / "there/c.mp4")


def test_tables_of_other_kinds(tmp_path):
    (tmp_path / "a.csv").write_text("path,text\nx.mp4,one\n")
    (tmp_path / "a.tsv").write_text("path\ttext\nx.mp4\tone\n")
    (tmp_path / "a.jsonl").write_text('{"path": "x.mp4", "text": "one"}\n')
    for name in ("a.csv", "a.tsv", "a.jsonl"):
        assert read_table(tmp_path / name).to_pylist() == [{"path": str(tmp_path / "x.mp4"), "text": "one"}]


def test_what_is_no_table(tmp_path):
    (tmp_path / "a.parquet").write_text("nothing")
    (tmp_path / "a.txt").write_text("nothing")
    (tmp_path / "deep.jsonl").write_text('{"path": "x"}\n{"path": "y", "z": ' + "[" * 100_000 + "]" * 100_000 + "}\n")
    deep = ("deep.jsonl", r"deep\.jsonl: cannot be read \(line 2: it is nested deeper")
    for name, message in (deep, ("a.parquet", "cannot be read"), ("a.txt", "accepted"), ("b.csv", "no such file")):
        with pytest.raises(CurationError, match=message):
            read_table(tmp_path / name)

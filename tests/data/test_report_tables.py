"""Columns of a curation table in the report."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vidtron.data.report.statistics import histogram
from vidtron.data.report.tables import ScoreTable, TableError


def write(file: Path, /, rows_per_group: int = 3, **columns: object) -> Path:
    pq.write_table(pa.table(columns), file, row_group_size=rows_per_group)
    return file


@pytest.fixture()
def table(tmp_path: Path) -> Path:
    return write(
        tmp_path / "scores.parquet",
        path=["a/one.mp4", "/data/b.v2/two (1).mp4", "../c/Ünï.mp4", "one.mp4", "/x/one.mp4", None],
        aesthetic=[4.5, 5.5, None, 6.5, 7.5, 0.0],
        faces=[1, 2, 3, 4, 5, 6],
        width=[1, 1, 1, 1, 1, 1],
        caption=["a", "b", "c", "d", "e", "f"],
        good=[True, False, True, True, True, True],
    )


def test_its_columns_of_numbers_have_histograms(table: Path):
    scores = ScoreTable(table)
    assert scores.names == ("aesthetic", "faces")  # the index knows the width
    aesthetic, faces = (histogram(column) for column in scores.columns())
    assert aesthetic is not None and faces is not None
    assert (sum(aesthetic.counts), aesthetic.missing, aesthetic.mean) == (5, 1, pytest.approx(4.8))
    assert (faces.counts, faces.whole) == ((1,) * 6, True)
    assert faces.label == "faces (scores.parquet)"


def test_a_histogram_of_many_row_groups_is_numpy_s(tmp_path: Path):
    values = np.random.default_rng(0).normal(size=5000)
    scores = ScoreTable(write(tmp_path / "t.parquet", 700, key=[f"k{i}" for i in range(5000)], flow=values))
    (column,) = scores.columns()
    found = histogram(column)
    assert found is not None
    inside = values[values < found.edges[-1]] if found.above else values
    assert found.counts == tuple(np.histogram(inside, np.array(found.edges))[0].tolist())
    assert found.median == np.median(values)


def test_clips_find_their_rows_by_path(table: Path):
    keys = ["one", "a/one", "data/b_v2/two_1_", "c/Ünï", "b", "x/one"]
    found = ScoreTable(table).values_of(keys)
    assert found == [
        {"aesthetic": 6.5, "faces": 4},
        {"aesthetic": 4.5, "faces": 1},
        {"aesthetic": 5.5, "faces": 2},
        {"faces": 3},
        None,
        {"aesthetic": 7.5, "faces": 5},
    ]


def test_clips_find_their_rows_by_key(tmp_path: Path):
    path = write(tmp_path / "t.parquet", 2, path=["z", "z", "z"], key=["b", "a.b", "b"], flow=[1.0, 2.0, 3.0])
    assert ScoreTable(path).values_of(["b", "a", "a_b"]) == [{"flow": 1.0}, None, {"flow": 2.0}]


def test_a_taken_name_gets_another_one(table: Path):
    columns = ScoreTable(table).columns(taken=["aesthetic", "width"])
    assert [column.name for column in columns] == ["table_aesthetic", "faces"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read"),
        (b"no parquet", "cannot be read"),
        ({"name": ["a"], "flow": [1.0]}, "accepted: key or path"),
        ({"path": ["a"], "caption": ["b"]}, "columns of numbers"),
        ({"path": pa.array([], pa.string()), "flow": pa.array([], pa.float64())}, "has 0 rows"),
    ],
)
def test_tables_that_are_none_are_refused(content: object, told: str, tmp_path: Path):
    path = tmp_path / "t.parquet"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        write(path, **content)
    with pytest.raises(TableError, match=f"--table .*t.parquet: .*{told}"):
        ScoreTable(path)

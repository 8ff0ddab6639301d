"""The command line of the report."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tools.report_dataset import main


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(r'id="data">(.*?)</script>', page.read_text(encoding="utf-8"))
    assert found is not None
    return json.loads(found[1])


def test_shards_alone(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    output = tmp_path / "new" / "report.html"
    assert main(["--data-path", str(shards), "--output", str(output), "--samples", "3", "--seed", "1"]) == 0
    assert capsys.readouterr().out == f"{output}: 8 samples, 3 of them shown\n"
    data = data_of(output)
    assert data["plan"] is None
    assert len(data["cards"]) == 3 and all(len(card["thumbnails"]) == 3 for card in data["cards"])
    first = output.read_bytes()
    assert main(["--data-path", str(shards), "--output", str(output), "--samples", "3", "--seed", "1"]) == 0
    assert output.read_bytes() == first


def test_with_a_run_and_a_table(shards: Path, tmp_path: Path):
    table, buckets, output = (tmp_path / name for name in ("scores.parquet", "buckets.yaml", "report.html"))
    pq.write_table(pa.table({"key": [f"clip{i:03d}" for i in range(4)], "aesthetic": [4.0, 5.0, 6.0, 7.0]}), table)
    buckets.write_text('"64x96": {9: [1.0, 2], 17: [1.0, 3]}')
    argv = ["--data-path", "0.5", str(shards), "0.5", str(shards), "--output", str(output), "--table", str(table)]
    assert main([*argv, "--model", "cogvideox-tiny", "--bucket-config", str(buckets)]) == 0
    data = data_of(output)
    assert [(one["name"], one["samples"], one["batches"]) for one in data["plan"]["buckets"]] == [
        ("64x96-17f-0.67", 16, 5),
        ("64x96-9f-0.67", 0, 0),
    ]
    assert {card["bucket"] for card in data["cards"]} == {"64x96-17f-0.67"}
    place = [column["name"] for column in data["columns"]].index("aesthetic")
    assert {card["key"]: card["values"][place] for card in data["cards"]}["clip002"] == 6.0
    assert data["notes"] == ["scores.parquet has no row for 8 of the 16 sampled clips"]


def test_the_run_s_own_size(shards: Path, tmp_path: Path):
    output = tmp_path / "report.html"
    argv = ["--data-path", str(shards), "--output", str(output), "--model", "cogvideox-tiny"]
    assert main([*argv, "--num-frames", "25", "--short-clip", "skip", "--height", "64", "--width", "96"]) == 0
    data = data_of(output)
    assert (data["plan"]["samples"], data["plan"]["used"]) == (8, 0)
    assert any("has 25 frames" in warning for warning in data["plan"]["warnings"])


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--data-path", "nowhere"], "nowhere: no such folder"),
        (["--data-path", "SHARDS", "--table", "none.parquet"], "--table none.parquet: cannot be read"),
        (["--data-path", "SHARDS", "--bucket-config", "b.yaml"], "--bucket-config b.yaml: accepted with --model"),
        (
            ["--data-path", "SHARDS", "--model", "cogvideox-tiny", "--bucket-config", "b.yaml"],
            "--bucket-config b.yaml",
        ),
        (["--data-path", "SHARDS", "--model", "cogvideox-tiny", "--num-frames", "0"], "--num-frames 0"),
        (["--data-path", "SHARDS", "--samples", "-1"], "--samples: -1; accepted: a whole number"),
        (["--data-path", "SHARDS", "--output", "x.txt"], "--output x.txt: accepted"),
    ],
)
def test_what_cannot_be_used_is_refused(
    argv: list[str], told: str, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    given = [str(shards) if word == "SHARDS" else word for word in argv]
    if "--output" not in given:
        given += ["--output", str(tmp_path / "report.html")]
    try:
        status = main(given)
    except SystemExit as left:
        status = left.code
    assert status == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()

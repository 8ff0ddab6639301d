"""The driver: errors, deaths, resuming, refusals; the same through Ray."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from tests.curation.fragile import Fragile
from tests.curation.steps import rows_in, rows_of, write_rows
from vidtron.curation.run import Running, run_step
from vidtron.curation.table import CurationError

ROOT = Path(__file__).parents[2]
NAMES = ["a", "raises", "dies", "bb", "twice", "dies-once", "hangs", "ccc"]
EXPECTED = [
    ("a", 1, None),
    ("raises", None, "fragile: no such codec"),
    ("dies", None, "fragile: its process died (signal 11), 2 times"),
    ("bb", 2, None),
    ("twice", 5, None),
    ("twice", 5, None),
    ("dies-once", 9, None),
    ("hangs", None, "fragile: took more than 3 seconds, 2 times"),
    ("ccc", 3, None),
    ("earlier", None, "probe: broken"),
]


def table(tmp_path: Path, names: list[str]) -> Path:
    rows = [{"path": str(tmp_path / name), "error": None} for name in names]
    return write_rows(tmp_path / "in.parquet", rows)


def seen(rows: list[dict]) -> list[tuple]:
    return [(row["path"], row["length"], row["error"]) for row in rows]


def check_accidents(tmp_path: Path, running: Running, left_out: str = "") -> None:
    """Run rows with every accident but one."""
    names = [name for name in NAMES if name != left_out]
    expected = [row for row in EXPECTED if row[0] != left_out]
    rows = [{"path": str(tmp_path / name), "error": None} for name in names]
    rows.append({"path": str(tmp_path / "earlier"), "error": "probe: broken"})
    source = write_rows(tmp_path / "in.parquet", rows)
    output = tmp_path / "out.parquet"
    result = run_step(Fragile(log=tmp_path / "log"), source, output, running)
    assert seen(rows_in(output)) == expected
    assert result.rows == len(expected)
    assert result.errors.total() == sum(error is not None for _, _, error in expected)
    begun = (tmp_path / "log").read_text().split()
    twice = {"dies", "dies-once", "hangs"}
    assert {name: begun.count(name) for name in names} == {name: 1 + (name in twice) for name in names}
    assert "earlier" not in begun
    assert not output.with_name("out.parquet.parts").exists()


def test_what_goes_wrong_costs_its_row(tmp_path):
    check_accidents(tmp_path, Running(workers=2, row_seconds=3, rows_per_part=4))


@pytest.mark.slow
def test_the_same_on_ray(tmp_path):
    pytest.importorskip("ray")
    check_accidents(tmp_path, Running(workers=2, rows_per_part=4, ray_address="local"), left_out="hangs")


@pytest.mark.parametrize(
    ("opening", "message"),
    [("raises", "fragile: these weights are of something else"), ("dies", r"ended while it loaded .*\(status 3\)")],
)
def test_a_step_that_cannot_be_opened_stops(tmp_path, opening, message):
    step = Fragile(log=tmp_path / "log", opening=opening)
    for workers in (0, 2) if opening == "raises" else (2,):
        with pytest.raises(CurationError, match=message):
            rows_of(step, table(tmp_path, ["a", "b"]), running=Running(workers=workers))
    assert not (tmp_path / "fragile.parquet").exists()


def test_a_killed_run_goes_on(tmp_path):
    names = [f"slow{n}" for n in range(40)]
    source, output, log = table(tmp_path, names), tmp_path / "out.parquet", tmp_path / "log"
    program = (
        "from pathlib import Path\nfrom tests.curation.fragile import Fragile\n"
        "from vidtron.curation.run import Running, run_step\n"
        f"if __name__ == '__main__':\n    run_step(Fragile(log=Path({str(log)!r})), Path({str(source)!r}), "
        f"Path({str(output)!r}), Running(workers=2, rows_per_part=4))\n"
    )
    (tmp_path / "program.py").write_text(program)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py")], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    parts = output.with_name("out.parquet.parts")
    deadline = time.monotonic() + 300
    while len(list(parts.glob("*.parquet"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {row["path"] for path in parts.glob("*.parquet") for row in pq.read_table(path).to_pylist()}
    assert 8 <= len(kept) < 40 and not output.exists()
    assert psutil.wait_procs(workers, timeout=300)[1] == []  # they notice, and end
    log.write_text("")
    with pytest.raises(CurationError, match="holds parts of another command"):
        run_step(Fragile(log=tmp_path / "other"), source, output, Running(workers=0))
    run_step(Fragile(log=log), source, output, Running(workers=0, rows_per_part=7))
    assert [(row["path"], row["length"]) for row in rows_in(output)] == [(name, len(name)) for name in names]
    assert sorted(log.read_text().split()) == sorted(set(names) - {Path(path).name for path in kept})


def test_an_output_is_not_overwritten(tmp_path):
    source, output, log = table(tmp_path, ["a", "b"]), tmp_path / "out.parquet", tmp_path / "log"
    assert not run_step(Fragile(log=log), source, output, Running(workers=0)).already_complete
    again = run_step(Fragile(log=log), source, output, Running(workers=1, rows_per_part=1))
    assert again.already_complete and again.rows == 2
    assert log.read_text().split() == ["a", "b"]
    with pytest.raises(CurationError, match=r"made by another command \(--opening was , is x\)"):
        run_step(Fragile(log=log, opening="x"), source, output, Running(workers=0))
    table(tmp_path, ["a", "c"])
    with pytest.raises(CurationError, match="--input was"):
        run_step(Fragile(log=log), source, output, Running(workers=0))
    with pytest.raises(CurationError, match="is there and not made by a step"):
        run_step(Fragile(log=log), source, source, Running(workers=0))
    with pytest.raises(CurationError, match=r"ends in \.parquet"):
        run_step(Fragile(log=log), source, tmp_path / "out.csv", Running(workers=0))


def test_what_a_run_refuses(tmp_path):
    with pytest.raises(CurationError) as caught:
        rows_of(
            Fragile(log=tmp_path / "log"), tmp_path / "none.parquet",
            running=Running(workers=-1, rows_per_part=0, row_seconds=0),
        )  # fmt: skip
    assert [line.split(";")[0] for line in str(caught.value).splitlines()] == [
        "--workers -1", "--rows-per-part 0", "--row-seconds 0",
    ]  # fmt: skip


def test_a_table_without_rows(tmp_path):
    source = table(tmp_path, ["a"])
    pq.write_table(pq.read_table(source).slice(0, 0), source)
    assert rows_of(Fragile(log=tmp_path / "log"), source, running=Running(workers=2)) == []


def test_a_cluster_that_is_not_there(tmp_path):
    pytest.importorskip("ray")
    running = Running(ray_address="auto")
    with pytest.raises(CurationError, match="--ray-address auto: cannot be reached"):
        rows_of(Fragile(log=tmp_path / "log"), table(tmp_path, ["a"]), running=running)

"""tools/curate as a command: its steps, exit statuses and what it prints."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.clip_files import clip_bytes

ROOT = Path(__file__).parents[2]
MAIN = runpy.run_path(str(ROOT / "tools" / "curate" / "__main__.py"), run_name="curate")["main"]


@pytest.fixture
def files(tmp_path, capsys):
    """A table of a video and a file that is none, and their folder."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.mp4").write_bytes(clip_bytes(6))
    (tmp_path / "raw" / "b.mp4").write_bytes(b"no video")
    assert MAIN(["scan", "--input", str(tmp_path / "raw"), "--output", str(tmp_path / "files.parquet")]) == 0
    assert "files.parquet: 2 rows" in capsys.readouterr().out
    return tmp_path / "files.parquet"


def test_help_lists_the_steps(capsys):
    with pytest.raises(SystemExit) as done:
        MAIN(["--help"])
    assert done.value.code == 0
    told = capsys.readouterr().out
    steps = "scan probe scenes cut aesthetic flow ocr motion caption clean match filter join".split()
    assert all(f"• {step} " in told for step in steps)


def test_errors_are_counted_by_reason(files, capsys):
    output = files.with_name("probed.parquet")
    command = ["probe", "--input", str(files), "--output", str(output), "--workers", "0"]
    assert MAIN(command) == 0
    told = capsys.readouterr().out
    assert "2 rows\n1 of them have an error:\n       1 probe: Invalid data" in told
    assert MAIN(command) == 0
    assert "was complete already" in capsys.readouterr().out
    assert MAIN(["scan", "--input", str(files.with_name("raw")), "--output", str(files)]) == 0
    (files.with_name("raw") / "c.mp4").write_bytes(b"another")
    assert MAIN(["scan", "--input", str(files.with_name("raw")), "--output", str(files)]) == 2
    assert "made by another command (files was" in capsys.readouterr().err


def test_with_processes(files):
    """As it is typed: the worker processes find the step that a folder's program has opened."""
    output = files.with_name("probed.parquet")
    command = [sys.executable, "tools/curate", "probe", "--input", str(files), "--output", str(output)]
    done = subprocess.run(
        [*command, "--workers", "2"], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, timeout=100,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert pq.read_table(output)["num_frames"].to_pylist() == [6, None]


def test_filter_tells_what_it_removes(files, capsys):
    probed, kept = files.with_name("probed.parquet"), files.with_name("kept.parquet")
    MAIN(["probe", "--input", str(files), "--output", str(probed), "--workers", "0"])
    where = "num_frames > 3 and error is null"
    assert MAIN(["filter", "--input", str(probed), "--output", str(kept), "--where", where]) == 0
    told = capsys.readouterr().out
    assert "1 removed by num_frames > 3\n       0 removed by error is null (1 by it alone)" in told
    assert pq.read_table(kept)["path"].to_pylist() == ["raw/a.mp4"]


def test_join(files, capsys):
    captions, joined = files.with_name("captions.csv"), files.with_name("joined.parquet")
    captions.write_text("path,text\nraw/a.mp4,bars\n")
    command = ["join", "--input", str(files), "--other", str(captions), "--output", str(joined)]
    assert MAIN([*command, "--how", "intersection"]) == 0
    assert pq.read_table(joined).to_pylist() == [{"path": "raw/a.mp4", "name": "a", "text": "bars", "error": None}]
    captions.write_text("path,text\nraw/a.mp4,other bars\n")
    assert MAIN([*command, "--how", "intersection"]) == 2
    assert "--other was" in capsys.readouterr().err


def test_statuses(files, capsys):
    output = str(files.with_name("out.parquet"))
    assert MAIN(["aesthetic", "--input", str(files), "--output", output]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert [line.split(":")[:2] for line in errors] == [["error", " aesthetic --clip"], ["error", " aesthetic --head"]]
    pq.write_table(pa.table({"path": [str(files.with_name("raw") / "b.mp4")]}), files)
    assert MAIN(["probe", "--input", str(files), "--output", output, "--workers", "0"]) == 1

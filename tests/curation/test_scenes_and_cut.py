import re

import pytest

from tests.curation.clips import encoded, moving, three_scenes, write
from tests.curation.steps import rows_of, table_of, write_rows
from tests.data.clip_files import clip_bytes, shown_numbers
from vidtron.curation.cut import Cut
from vidtron.curation.frames import frames_at
from vidtron.curation.scenes import Scenes
from vidtron.curation.table import CurationError
from vidtron.data.building.probe import probe

THREE = [[0.0, 2.5], [2.5, 5.5], [5.5, 7.5]]


@pytest.fixture
def raw(tmp_path):
    """A video of three scenes, one of one scene, and a file that is none."""
    videos = {"a.mp4": three_scenes(), "sub/b.mp4": moving(5, 1, 0, 30), "c.mp4": b"no video"}
    return table_of(write(tmp_path / "raw", videos), tmp_path / "0.parquet")


def test_scenes_are_found_exactly(raw):
    pytest.importorskip("scenedetect")
    a, c, b = rows_of(Scenes(), raw)
    assert (a["scenes"], a["error"]) == (THREE, None)
    assert b["scenes"] == [[0.0, 3.0]]
    assert c["scenes"] is None and c["error"].startswith("scenes: ")


def test_times_count_from_the_first_frame(tmp_path):
    """Transport streams do not begin at 0 seconds."""
    pytest.importorskip("scenedetect")
    write(tmp_path / "raw", {"a.ts": encoded(three_scenes(), container="mpegts")})
    (row,) = rows_of(Scenes(), table_of(tmp_path / "raw", tmp_path / "0.parquet"))
    assert row["error"] is None
    assert [pytest.approx(scene, abs=1e-3) for scene in row["scenes"]] == THREE


def test_each_scene_becomes_a_clip(tmp_path):
    write(tmp_path / "raw", {"a.mp4": clip_bytes(40), "b.mp4": b"no video"})
    rows = [
        {
            "path": str(tmp_path / "raw/a.mp4"),
            "scenes": [[0.0, 1.5], [1.5, 1.7], [1.7, 4.0]],
            "text": "x",
            "fps": 10.0,
        },
        {"path": str(tmp_path / "raw/b.mp4"), "scenes": [[0.0, 1.0]], "text": "y", "fps": 10.0},
        {"path": "/none.mp4", "scenes": None, "text": "z", "fps": 10.0, "error": "scenes: broken"},
    ]
    source = write_rows(tmp_path / "in.parquet", rows)
    first, short, long, bad, earlier = rows_of(
        Cut(clips=tmp_path / "clips", min_seconds=0.5, max_seconds=2.0, short_side=24), source
    )
    assert (first["source"], first["scene"], first["text"], first["error"]) == ("raw/a.mp4", 0, "x", None)
    assert "fps" not in first, "what was measured of the whole video"
    facts = probe(tmp_path / first["path"])
    assert (facts.frames, facts.height, facts.width) == (15, 24, 36)
    assert short["error"] == "cut: 0.200 s is shorter than --min-seconds 0.5"
    assert not (tmp_path / short["path"]).exists()
    assert (long["start"], long["end"], long["error"]) == (1.7, 3.7, None)
    assert bad["error"].startswith("cut: Invalid data")
    assert (earlier["path"], earlier["error"]) == ("/none.mp4", "scenes: broken")


def test_clips_hold_the_frames_of_their_scene(tmp_path):
    import numpy as np
    import torch

    write(tmp_path / "raw", {"a.mp4": clip_bytes(40)})
    source = write_rows(
        tmp_path / "in.parquet", [{"path": str(tmp_path / "raw/a.mp4"), "scenes": [[0.0, 1.3], [1.3, 4.0]]}]
    )
    _, second = rows_of(Cut(clips=tmp_path / "clips"), source)
    frames = torch.from_numpy(np.stack(frames_at(tmp_path / second["path"], range(27)))).permute(0, 3, 1, 2)
    assert shown_numbers(frames) == list(range(13, 40))


def test_files_of_the_same_name_do_not_meet(tmp_path):
    write(tmp_path, {"x/a.mp4": clip_bytes(10), "y/a.mp4": clip_bytes(12)})
    rows = [{"path": str(tmp_path / folder / "a.mp4"), "scenes": [[0.0, 1.0]]} for folder in "xy"]
    made = rows_of(Cut(clips=tmp_path / "clips"), write_rows(tmp_path / "in.parquet", rows))
    assert len({row["path"] for row in made}) == 2 and not any(row["error"] for row in made)


def test_what_cut_refuses(tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "mine.txt").touch()
    source = write_rows(tmp_path / "in.parquet", [{"path": "a.mp4", "scenes": [[0.0, 1.0]]}])
    with pytest.raises(CurationError) as caught:
        rows_of(Cut(clips=tmp_path / "clips", min_seconds=-1, short_side=0), source)
    messages = str(caught.value).splitlines()
    assert [re.split("[:;]", message)[0] for message in messages] == [
        "cut --min-seconds -1", "cut --short-side 0", f"cut --clips {tmp_path / 'clips'}",
    ]  # fmt: skip
    with pytest.raises(CurationError, match="has no column scenes; it has path"):
        rows_of(Cut(clips=tmp_path / "new"), write_rows(tmp_path / "other.parquet", [{"path": "a.mp4"}]))

"""Steps that need no weights: flow by Farneback's method, camera motion, text in the picture."""

import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.curation.clips import moving, still, texture, with_text, write, zooming
from tests.curation.steps import rows_of, table_of
from vidtron.curation.flow import Flow, mean_flow
from vidtron.curation.motion import Motion, clip_motion, flow_facts, step_motion
from vidtron.curation.ocr import Ocr, covered
from vidtron.curation.table import CurationError

ORACLE = Path(__file__).parents[1] / "reference" / "data" / "opensora"
pytest.importorskip("cv2")


def test_camera_motion_as_open_sora_names_it():
    facts = json.loads((ORACLE / "tools.json").read_text())
    for length, direction, outwards, name in facts["frame_type"]:
        assert step_motion(length, direction, outwards) == name
    for steps, name in facts["video_type"]:
        assert clip_motion(steps) == name


def test_facts_of_a_flow():
    down, across = np.mgrid[:9, :9].astype(np.float32) - 4
    assert flow_facts(np.stack([across, down], axis=-1) * 2)[2] == pytest.approx(80 / 81)  # all but the centre
    length, direction, outwards = flow_facts(np.full((8, 8, 2), (0.0, -3.0), dtype=np.float32))
    assert (length, direction, outwards) == (3.0, 270.0, 0.5)


def test_camera_motion_of_clips(tmp_path):
    videos = {
        "left.mp4": moving(1, 0.5, 0),
        "right.mp4": moving(1, -0.5, 0),
        "down.mp4": moving(1, 0, -0.5),
        "up.mp4": moving(1, 0, 0.5),
        "in.mp4": zooming(2, 1.01),
        "out.mp4": zooming(2, 1 / 1.01),
        "still.mp4": still(3, 31),
        "short.mp4": moving(1, 0.5, 0, 10),
    }
    rows = rows_of(Motion(), table_of(write(tmp_path / "raw", videos), tmp_path / "0.parquet"))
    assert {Path(row["path"]).stem: row["motion"] for row in rows} == {
        "left": "pan left", "right": "pan right", "up": "tilt up", "down": "tilt down",
        "in": "zoom in", "out": "zoom out", "still": "static", "short": "unknown",
    }  # fmt: skip


def test_flow_grows_with_speed_and_turns_with_the_picture(tmp_path):
    upright = [np.ascontiguousarray(frame.transpose(1, 0, 2)) for frame in moving(1, 0.3, 0)]
    videos = {"a.mp4": still(1, 31), "b.mp4": moving(1, 0.15, 0), "c.mp4": moving(1, 0.3, 0), "d.mp4": upright}
    a, b, c, d = rows_of(Flow(method="farneback"), table_of(write(tmp_path / "raw", videos), tmp_path / "0.parquet"))
    assert a["flow"] < 0.01 < b["flow"]
    assert c["flow"] == pytest.approx(2 * b["flow"], rel=0.4)
    assert d["flow"] == pytest.approx(c["flow"], rel=0.2)


def test_raft_sees_what_it_expects(tmp_path, monkeypatch):
    """torchvision's builds belong to builds of torch: here its network is a stand-in."""
    seen = []

    class Raft(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = torch.nn.Parameter(torch.zeros(2))

        def forward(self, first, second):
            seen.append((first, second))
            flow = self.shift[:, None, None].expand(1, 2, *first.shape[-2:])
            return [torch.zeros_like(flow), flow]

    module = types.ModuleType("torchvision.models.optical_flow")
    module.raft_small = lambda weights, progress: Raft()
    package, models = types.ModuleType("torchvision"), types.ModuleType("torchvision.models")
    package.__spec__ = types.SimpleNamespace(name="torchvision")
    package.models, models.optical_flow = models, module
    for name, value in (("torchvision", package), ("torchvision.models", models), (module.__name__, module)):
        monkeypatch.setitem(sys.modules, name, value)
    torch.save({"shift": torch.tensor([1.0, -3.0])}, tmp_path / "raft.pth")
    source = table_of(write(tmp_path / "raw", {"a.mp4": moving(1, 1, 0)}), tmp_path / "0.parquet")
    (row,) = rows_of(Flow(weights=tmp_path / "raft.pth", raft="small", device="cpu"), source)
    assert (row["flow"], row["error"]) == (2.0, None)
    assert len(seen) == 3 and seen[0][0].shape == (1, 3, 320, 576)
    assert -1 <= seen[0][0].min() < -0.5 and 0.5 < seen[0][0].max() <= 1


def test_flow_is_the_mean_of_both_directions_and_three_pairs():
    frames = [texture(n) for n in range(4)]
    flows = iter([np.full((4, 4, 2), (2.0, -4.0)), np.zeros((4, 4, 2)), np.full((4, 4, 2), 3.0)])
    assert mean_flow(frames, lambda first, second: next(flows)) == 2.0


@pytest.mark.skipif("torchvision" in sys.modules, reason="torchvision is there")
def test_raft_says_what_it_needs(tmp_path):
    source = table_of(write(tmp_path / "raw", {"a.mp4": still(1)}), tmp_path / "0.parquet")
    with pytest.raises(CurationError) as caught:
        rows_of(Flow(), source)
    assert "the state dictionary of torchvision's raft_large, or none with --method farneback" in str(caught.value)


def test_text_in_the_picture(tmp_path):
    pytest.importorskip("rapidocr")
    videos = {"a.mp4": with_text(["HELLO", "WORLD"]), "b.mp4": with_text([]), "c.mp4": with_text(["ONE"], frames=3)}
    a, b, c = rows_of(Ocr(), table_of(write(tmp_path / "raw", videos), tmp_path / "0.parquet"))
    assert [row["ocr"] for row in (a, b, c)] == [2, 0, 1]
    assert a["ocr_area"] > c["ocr_area"] > 0.01 and b["ocr_area"] == 0
    assert a["ocr_area"] < 0.5


def test_boxes_that_overlap_count_once():
    box = np.array([[0, 0], [511, 0], [511, 511], [0, 511]])
    assert covered([box]) == covered([box, box]) == 0.25
    assert covered([]) == 0

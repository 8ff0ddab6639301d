import json
import random
from pathlib import Path

import pytest

from vidtron.data.planning.windows import opensora_frame_numbers

DRAWS = json.loads((Path(__file__).parents[1] / "reference/data/opensora_temporal_crop.json").read_text())["draws"]


@pytest.mark.parametrize("draw", DRAWS, ids=lambda d: f"{d['total']}-{d['num_frames']}-{d['seed']}")
def test_opensoras_windows(draw: dict) -> None:
    found = opensora_frame_numbers(
        draw["total"], draw["num_frames"], draw["frame_interval"], random.Random(draw["seed"])
    )
    assert found == draw["frames"]

"""docs/sampling.md: its commands, in their order, on tiny models."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.inference.conftest import trained  # noqa: F401
from tests.test_fine_tune_page import write_pipeline
from vidtron.inference.video_io import read_video

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_every_command(trained, tmp_path):  # noqa: F811
    write_pipeline(tmp_path / "CogVideoX-5b")
    (tmp_path / "RUN").symlink_to(trained)
    for name in ("tools", "vidtron"):
        (tmp_path / name).symlink_to(ROOT / name)
    programs = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    page = (ROOT / "docs" / "sampling.md").read_text(encoding="utf-8")
    commands = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    assert len(commands) == 5
    shapes = []
    for command in commands:
        fast = command.replace("sample_video.py --load", "sample_video.py --sampling-steps 2 --load")
        for video in (tmp_path / "VIDEOS").glob("*bicycle*"):
            video.unlink()
        done = subprocess.run(
            ["bash", "-ec", fast], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400
        )
        assert done.returncode == 0, done.stdout + done.stderr
        bicycle = tmp_path / "VIDEOS" / "0000-a-bicycle-on-a-street-1234.mp4"
        shapes.append(tuple(read_video(bicycle)[0].shape) if bicycle.exists() else None)
    assert shapes == [(9, 3, 32, 48), (17, 3, 64, 96), (17, 3, 32, 48), None, (9, 3, 32, 48)]
    again, first = (tmp_path / folder / "0001-a-lake-1234.mp4" for folder in ("AGAIN", "VIDEOS"))
    assert again.read_bytes() == first.read_bytes()

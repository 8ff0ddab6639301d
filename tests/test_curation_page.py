"""docs/curation.md: its commands, in their order, on small videos and with tiny networks."""

import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.curation.clips import moving, three_scenes, with_text, write
from tests.curation.tiny_models import make_clip, make_head, make_llava
from vidtron.data.shards.index import ShardIndex

ROOT = Path(__file__).parents[1]
CURATE = runpy.run_path(str(ROOT / "tools" / "curate" / "__main__.py"), run_name="curate")["main"]
"""Called here: as processes, the steps would mostly import."""
TINY = {
    "--min-seconds 2 ": "--min-seconds 1 ",
    "duration >= 2 ": "duration >= 1 ",
    "--short-side 720": "--short-side 64",
    # Random networks find nothing beautiful and nothing that fits.
    "aesthetic >= 5 ": "aesthetic > -1000 ",
    "match >= 20": "match >= -100",
    "ocr_area < 0.05": "ocr_area <= 1",  # the detector takes random patches for letters
    "--shares 0.5": "--shares 0.5 --max-new-tokens 8",
    "--nproc-per-node 8": "--nproc-per-node 1",
    "cogvideox-2b": "cogvideox-tiny",
    " --bf16": " --height 64 --width 80",
    "--global-batch-size 32 --train-iters 100000": "--global-batch-size 2 --train-iters 2 --lr-warmup-iters 0",
}
"""What the page says -> what a test can do; each must be on the page."""
OVER_ROWS = ("probe", "scenes", "cut", "aesthetic", "flow", "ocr", "motion", "caption", "clean", "match")
COMMANDS = 17


def commands() -> list[str]:
    """The page's commands one by one; those over rows without worker processes, which only take time here."""
    text = (ROOT / "docs" / "curation.md").read_text(encoding="utf-8")
    for original, replacement in TINY.items():
        assert original in text, original
        text = text.replace(original, replacement)
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    found = [command for block in blocks for command in block.replace("\\\n", "").splitlines()]
    steps = re.compile(rf"python tools/curate ({'|'.join(OVER_ROWS)}) ")
    return [steps.sub(r"python tools/curate \1 --workers 0 ", command) for command in found]


@pytest.mark.slow
def test_every_command(tmp_path, monkeypatch, capsys):
    for package in ("scenedetect", "cv2", "rapidocr", "ftfy", "bs4", "transformers"):
        pytest.importorskip(package)
    bad = b"this is no video"
    videos = {"street.mp4": three_scenes(), "deep/sea.mp4": moving(7, 1, 0, 25), "bad.mp4": bad}
    write(tmp_path / "RAW", {**videos, "title.mp4": with_text(["LARGE", "TITLE"], 20)})
    make_clip(tmp_path / "clip-vit-large-patch14")
    make_head(tmp_path / "sac+logos+ava1-l14-linearMSE.pth")
    make_llava(tmp_path / "llava-v1.6-mistral-7b-hf", template=True)
    (tmp_path / "captions.csv").write_text("path,text\nWORK/clips/deep/sea_scene-0.mp4,a calm sea\n")
    for name in ("tools", "pretrain_video.py", "vidtron"):
        (tmp_path / name).symlink_to(ROOT / name)
    environment = {
        **os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
    }  # fmt: skip

    monkeypatch.chdir(tmp_path)
    found = commands()
    assert len(found) == COMMANDS
    told = {}
    for command in found:
        if command.startswith("python tools/curate "):
            assert CURATE(shlex.split(command)[2:]) == 0, command
            told[command] = "".join(capsys.readouterr())
            continue
        done = subprocess.run(["bash", "-ec", command], env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, command + "\n" + done.stdout + done.stderr
        told[command] = done.stdout + done.stderr

    clips = {"street_scene-0", "street_scene-1", "street_scene-2", "deep/sea_scene-0"}
    final = pq.read_table(tmp_path / "WORK" / "14-final.parquet").to_pylist()
    assert {row["path"] for row in final} == {f"clips/{name}.mp4" for name in clips}
    assert pq.read_table(tmp_path / "WORK" / "captioned.parquet")["text"].to_pylist() == ["a calm sea"]
    filtering = next(text for command, text in told.items() if "10-good" in command and "filter" in command)
    assert re.search(r"^ +1 removed by error is null", filtering, re.MULTILINE)
    assert re.search(r"^ +1 removed by flow > 0\.1", filtering, re.MULTILINE), filtering
    index = ShardIndex.open([tmp_path / "SHARDS"])
    assert set(index.scores) == {"score_aesthetic", "score_flow", "score_ocr", "score_match"}
    assert sorted(sample.key for sample in index) == sorted(f"clips/{name}" for name in clips)
    assert "step 2/2" in told[found[-1]]

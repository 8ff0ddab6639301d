"""docs/data.md: its commands, in their order, on a tiny model and two ranks, with the page's buckets made small."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.clip_files import clip_bytes, write_clips

ROOT = Path(__file__).parents[1]
NETWORK = "--num-layers 1 --hidden-size 32 --num-attention-heads 2"
CLIP = "--num-frames 5 --height 48 --width 64 --fps 8"
TINY = {
    "cogvideox-2b": f"cogvideox-tiny {NETWORK} {CLIP} --train-iters 2 --lr-warmup-iters 0 --micro-batch-size 2",
    "--nproc-per-node 8": "--nproc-per-node 2",
}
"""What the page says -> what a test can do; each must be on the page."""
RUN_OF_BUCKETS = "--bucket-config buckets.yaml ..."
RUN_WITH_CACHE = "--latent-cache CACHE ..."


def blocks(language: str) -> list[str]:
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands() -> list[str]:
    found = "".join(blocks("bash"))
    for original, replacement in TINY.items():
        assert original in found, original
        found = found.replace(original, replacement)
    assert found.count(" ...") == 2
    found = found.replace(RUN_OF_BUCKETS, "--bucket-config buckets.yaml --save RUN")
    return found.replace(RUN_WITH_CACHE, "--latent-cache CACHE --save CACHED").splitlines()


def shrunk(page: str) -> str:
    """The page's buckets at sizes of a test: the same keys and probabilities, fewer frames and pixels."""
    for original, small in {
        "240p:": "144p:",
        "480p:": '"64x80":',
        '"480x720"': '"48x64"',
        "17:": "5:",
        "49:": "9:",
    }.items():
        assert original in page, original
        page = page.replace(original, small)
    return page


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    shapes = {"wide": (20, 48, 64), "large": (12, 144, 256), "middle": (20, 64, 80)}
    clips = {
        f"{name}{number}": clip_bytes(frames, "vp9", height=height, width=width, tint=40 * number)
        for name, (frames, height, width) in shapes.items()
        for number in range(6)
    }
    write_clips(folder / "CLIPS", clips)
    (page,) = blocks("yaml")
    (folder / "buckets.yaml").write_text(re.sub(r", (\d+)\]", ", 2]", shrunk(page)))
    return folder


@pytest.mark.slow
def test_every_command_of_the_page(folder):
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    for name in ("tools", "pretrain_video.py"):
        (folder / name).symlink_to(ROOT / name)
    lines = [line for line in commands() if line]
    assert len(lines) >= 8
    for line in lines:
        done = subprocess.run(["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    trained = [json.loads(line) for line in (folder / "RUN" / "metrics.jsonl").read_text().splitlines()]
    assert all(row["samples_digest"] == row["planned_digest"] for row in trained)
    assert "<html" in (folder / "report.html").read_text()
    assert list((folder / "CACHE").glob("*.tar"))

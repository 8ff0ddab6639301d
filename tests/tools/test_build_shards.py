import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.data.clip_files import clip_bytes, write_clips
from vidtron.data.shards.index import INDEX_NAME, ShardIndex

ROOT = Path(__file__).parents[2]


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tools" / "build_shards.py"), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Tests started in the background of a shell ignore SIGINT, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def run(*arguments: object) -> tuple[int, str, str]:
    process = start(*arguments)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_two_arguments_are_enough(tmp_path: Path) -> None:
    source = write_clips(tmp_path / "clips", {name: clip_bytes(6) for name in "ab"})
    status, out, err = run("--input", source, "--output", tmp_path / "shards")
    assert status == 0, err
    assert "2 samples" in out
    assert len(ShardIndex.open([tmp_path / "shards"])) == 2
    status, out, _ = run("--input", source, "--output", tmp_path / "shards")
    assert status == 0 and "complete already" in out


def test_skipped_clips_are_named_and_fail_only_when_strict(tmp_path: Path) -> None:
    source = write_clips(tmp_path / "clips", {"a": clip_bytes(6), "bad": b"nothing"})
    arguments = ("--input", source, "--output", tmp_path / "shards", "--codec", "copy")
    status, out, err = run(*arguments)
    assert status == 0
    assert "bad.mp4: Invalid data" in err and "1 clips skipped" in out
    assert run(*arguments, "--strict")[0] == 1


def test_errors_have_status_2(tmp_path: Path) -> None:
    status, _, err = run("--input", tmp_path, "--output", tmp_path / "shards", "--codec", "vp9")
    assert status == 2 and err.startswith("error: ") and "no clips in it" in err
    assert "Traceback" not in err


def test_a_killed_build_goes_on(tmp_path: Path) -> None:
    clips = {f"c{i:02}": clip_bytes(40, height=240, width=360) for i in range(10)}
    source = write_clips(tmp_path / "clips", clips)
    shared = ("--input", source, "--codec", "vp9", "--samples-per-shard", 2, "--workers", 1)
    out = tmp_path / "killed"
    process = start(*shared, "--output", out)
    deadline = time.monotonic() + 300
    while not (out / "shard-000001.tar").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (out / "shard-000001.tar").exists() and not (out / INDEX_NAME).exists()
    status, _, err = run(*shared, "--output", out)
    assert status == 0, err
    assert "of 10 clips were done before" in err
    assert run(*shared, "--output", tmp_path / "whole")[0] == 0
    assert content_of(out) == content_of(tmp_path / "whole")


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    clip = clip_bytes(40, height=240, width=360)
    source = write_clips(tmp_path / "clips", {f"c{i:02}": clip for i in range(20)})
    process = start("--input", source, "--output", tmp_path / "out", "--codec", "vp9", "--samples-per-shard", 1)
    deadline = time.monotonic() + 300
    while not (tmp_path / "out" / "shard-000000.tar").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in err and "Traceback" not in err


@pytest.mark.parametrize("codec", ["vp9", "h264"])
def test_edits(tmp_path: Path, codec: str) -> None:
    source = write_clips(tmp_path / "clips", {"a": clip_bytes(30, height=96, width=144)})
    edits = ("--start", 0.5, "--max-seconds", 2, "--cut-seconds", 1, "--height", 48, "--width", 48, "--fps", 5)
    status, _, err = run("--input", source, "--output", tmp_path / codec, "--codec", codec, *edits)
    assert status == 0, err
    index = ShardIndex.open([tmp_path / codec])
    assert len(index) == 2
    for sample in index:
        assert (sample.clip.codec, sample.clip.frames, sample.clip.width, sample.clip.height) == (codec, 5, 72, 48)

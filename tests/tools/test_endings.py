"""Programs that a signal or a full disk ends: one line, the status a shell expects, nothing half-written."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.checkpoint.checkpoints import sat
from tests.data.clip_files import clip_bytes, write_clips
from tests.small_disk import small_disk

ROOT = Path(__file__).parents[2]
ENTRY_POINTS = ["pretrain_video.py", *sorted(f"tools/{path.name}" for path in (ROOT / "tools").glob("*.py"))]
SEEN_IN_IMPORTS = "numpy"
"""Every one of them needs it, and more after it."""


def start(*words: object, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *options, *map(str, words)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Tests started in the background of a shell ignore SIGINT, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.parametrize("program", [*ENTRY_POINTS, "tools/curate/__main__.py"])
def test_a_signal_in_the_imports(program: str, shards: Path) -> None:
    """The interpreter tells of each import; the signal comes after numpy's."""
    words = ("--model", "cogvideox-tiny", "--data-path", shards) if program == "pretrain_video.py" else ("--help",)
    number = signal.SIGINT if len(program) % 2 else signal.SIGTERM
    process = start(program, *words, options=("-X", "importtime"))
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("import time:") and line.split("|")[-1].strip() == SEEN_IN_IMPORTS:
            process.send_signal(number)
            break
    out, rest = process.communicate(timeout=120)
    told = [line for line in rest.splitlines() if not line.startswith("import time:")]
    assert out == "" and len(told) == 1, told
    if program == "pretrain_video.py":
        assert (process.returncode, told[0]) == (0, "leaving before the first step (signal); there is nothing to save")
    else:
        word = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
        assert (process.returncode, told[0]) == (128 + number, f"interrupted ({word}); nothing was begun")


STALL = """
import os, runpy, sys, time
sys.argv = sys.argv[1:]
import {module}
def stalled(*args, **kwargs):
    print("here", flush=True)
    while True:
        time.sleep(0.01)
{module}.{name} = stalled
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def interrupted(module: str, name: str, number: signal.Signals, *words: object) -> tuple[int, list[str]]:
    """(exit status, lines on standard error) of a program that is interrupted where it calls a function."""
    process = start("-c", STALL.format(module=module, name=name), *words)
    assert process.stdout is not None and process.stderr is not None
    lines: list[str] = []
    reading = threading.Thread(target=lambda: lines.extend(process.stderr.read().splitlines()))
    reading.start()
    while (line := process.stdout.readline()) not in ("here\n", ""):
        continue
    assert line, lines
    process.send_signal(number)
    status = process.wait(timeout=60)
    reading.join()
    process.stdout.close()
    process.stderr.close()
    return status, lines


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_conversion(tmp_path: Path, number: signal.Signals) -> None:
    words = ["tools/convert_checkpoint.py", "--load-format", "sat", "--load", sat("2b"), "--save-format", "diffusers"]
    place = ("vidtron.checkpoint.tensor_files", "SafetensorsFile.write")
    status, lines = interrupted(*place, number, *words, "--save", tmp_path / "out")
    assert status == 128 + number
    told = [line for line in lines if not line.startswith("warning: ")]  # of the depth, which no configuration tells
    assert told == [f"interrupted ({'Ctrl-C' if number == signal.SIGINT else 'SIGTERM'}); nothing was written"]
    assert not list(tmp_path.iterdir())


def test_an_interrupted_build(tmp_path: Path) -> None:
    source = write_clips(tmp_path / "clips", {"a": clip_bytes(6)})
    words = ["tools/build_shards.py", "--input", source, "--output", tmp_path / "out", "--codec", "copy"]
    place = ("vidtron.data.building.shard_file", "_add_sample")
    status, lines = interrupted(*place, signal.SIGTERM, *words)
    assert status == 143
    assert lines[-1] == "interrupted (SIGTERM); the same command goes on from the last finished shard"
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".build"]


def test_an_interrupted_encoding(shards: Path, tmp_path: Path) -> None:
    words = ["tools/encode_latents.py", "--model", "cogvideox-tiny", "--num-frames", 9, "--height", 32, "--width", 48]
    words += ["--data-path", shards, "--latent-cache", tmp_path / "cache", "--decoder", "pyav"]
    place = ("vidtron.data.latents.parts", "PartWriter.append")
    status, lines = interrupted(*place, signal.SIGINT, *words)
    assert status == 130
    assert lines[-1] == "interrupted (Ctrl-C); the same command goes on; finished shards are kept"
    assert not any("Traceback" in line for line in lines)
    assert not [path.name for path in (tmp_path / "cache").iterdir() if path.suffix in (".tar", ".jsonl")]


@pytest.mark.parametrize("save_format", ["diffusers", "sat", "megatron"])
def test_a_conversion_to_a_full_disk(tmp_path: Path, save_format: str) -> None:
    with small_disk(tmp_path / "disk", 256 << 10) as disk:
        disk.fill(left=64 << 10)
        words = ["tools/convert_checkpoint.py", "--load-format", "sat", "--load", sat("2b")]
        with disk.limits(64 << 10):
            process = start(*words, "--save-format", save_format, "--save", disk.folder / "out")
            _, err = process.communicate(timeout=120)
        assert process.returncode == 1
        (line,) = (line for line in err.splitlines() if not line.startswith("warning: "))
        assert line.startswith(f"error: {disk.folder / 'out'}: cannot be written ("), line
        assert {path.name for path in disk.folder.iterdir()} <= {"filler"}


def test_a_build_on_a_full_disk(tmp_path: Path) -> None:
    clip = clip_bytes(30, height=120, width=180)
    source = write_clips(tmp_path / "clips", {f"c{number}": clip for number in range(3)})
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        out = disk.folder / "out"
        disk.fill(left=2 * len(clip))
        words = ["tools/build_shards.py", "--input", source, "--output", out, "--codec", "copy"]
        with disk.limits(2 * len(clip)):
            process = start(*words)
            _, err = process.communicate(timeout=120)
        assert process.returncode == 1
        line = err.splitlines()[-1]
        assert line.startswith(f"error: {out}: cannot be written (") and "Traceback" not in err
        assert [path.name for path in out.iterdir()] == [".build"]
        disk.make_room()
        again = start(*words)
        _, err = again.communicate(timeout=120)
        assert again.returncode == 0, err


def test_a_full_disk_under_the_latent_cache(shards: Path, tmp_path: Path) -> None:
    words = ["tools/encode_latents.py", "--model", "cogvideox-tiny", "--num-frames", 9, "--height", 32, "--width", 48]
    with small_disk(tmp_path / "disk", 256 << 10) as disk:
        disk.fill(left=20 << 10)
        with disk.limits(20 << 10):
            process = start(*words, "--data-path", shards, "--latent-cache", disk.folder / "cache")
            _, err = process.communicate(timeout=120)
        assert process.returncode == 1, err
        (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
        assert line.startswith(f"error: --latent-cache {disk.folder / 'cache'}: ") and "Traceback" not in err
        assert not [path.name for path in (disk.folder / "cache").iterdir() if path.suffix == ".tar"]


def test_no_entry_point_was_forgotten() -> None:
    for program in ENTRY_POINTS:
        text = (ROOT / program).read_text()
        first = next(line for line in text.splitlines() if line.startswith(("import ", "from ")))
        assert first.startswith(("from vidtron.config import signals", "import sys", "import signal")), program
        assert "signals.listen_for_" in text, program
    assert os.path.isfile(ROOT / "tools/curate/__main__.py")

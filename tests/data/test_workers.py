"""Decoding processes die, hang, lose their parent; nothing stays behind."""

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.clip_files import build_shards, clip_bytes, shown_numbers
from tests.data.odd_samples import OddSample
from tests.data.small_plan import SmallPlan
from tests.data.test_loader import odd_plan, wait_for
from vidtron.data.decoding import workers
from vidtron.data.decoding.decode import ClipDecoder
from vidtron.data.decoding.loader import ClipLoader
from vidtron.data.shards.index import ShardIndex

PYAV = ClipDecoder("pyav")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    clips = {f"c{i}": clip_bytes(22, "mjpeg") for i in range(5)}
    return build_shards(tmp_path_factory.mktemp("workers"), clips)


def children(parent: int) -> list[int]:
    """Decoding processes of a process, dead ones that nobody has asked after included; not what other tests have."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"PPid:\t{parent}\n" in (entry / "status").read_text():
                command = (entry / "cmdline").read_text()  # empty of a dead one
                if not command or "data.decoding.worker" in command:
                    found.append(int(entry.name))
        except OSError:  # it ended meanwhile
            continue
    return found


def alive(process: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def test_processes_are_light() -> None:
    """They start fast because they import neither torch nor megatron-core."""
    program = "import sys, vidtron.data.decoding.worker as _; print({'torch', 'megatron', 'nvidia'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "set()\n"


def test_killed_processes_are_replaced(index: ShardIndex, caplog: pytest.LogCaptureFixture) -> None:
    with ClipLoader(SmallPlan(index), PYAV, range(60), num_workers=2) as loader:
        clips = [next(loader) for _ in range(5)]
        killed = children(os.getpid())
        assert len(killed) == 2
        for process in killed:
            os.kill(process, signal.SIGKILL)
        clips += loader
        assert not set(killed) & set(children(os.getpid()))
    assert [clip.position for clip in clips] == list(range(60))
    for clip in clips:
        assert not clip.bad and shown_numbers(clip.frames_TCHW) == list(clip.frame_numbers)
    assert caplog.text.count("was killed by SIGKILL (out of memory?)") == 1
    assert not children(os.getpid())


def test_a_clip_that_kills_once_is_tried_again(
    index: ShardIndex, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ClipLoader(odd_plan(index, tmp_path / "note", {1: "kill once"}), PYAV, range(5), 2) as loader:
        assert [(clip.key, clip.bad) for clip in loader] == [(f"c{i}", ()) for i in range(5)]
    assert len((tmp_path / "note").read_text().splitlines()) == 2
    assert "was killed by SIGKILL" in caplog.text and "sample c1 of" in caplog.text


def test_a_clip_that_kills_three_times_is_bad(index: ShardIndex, tmp_path: Path) -> None:
    with ClipLoader(odd_plan(index, tmp_path / "note", {1: "kill"}), PYAV, range(5), 1) as loader:
        clips = list(loader)
    assert [clip.row for clip in clips] == [0, 2, 2, 3, 4]
    (bad,) = clips[1].bad
    assert (bad.key, bad.reason) == ("c1", "its decoder died")
    assert len((tmp_path / "note").read_text().splitlines()) == 3


def test_a_clip_that_hangs_is_bad(index: ShardIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "CLIP_SECONDS", 1.5)
    with ClipLoader(odd_plan(index, tmp_path / "note", {0: "hang"}), PYAV, range(2), 2) as loader:
        clips = list(loader)
    assert [clip.row for clip in clips] == [1, 1] and clips[0].bad[0].reason == "its decoder died"


def test_a_process_that_cannot_start_stops_the_run(index: ShardIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_PROGRAM", "raise SystemExit(7)")
    with ClipLoader(SmallPlan(index), PYAV, range(2), 1) as loader:
        with pytest.raises(RuntimeError, match=r"num-workers.*did not start: ended with status 7"):
            next(loader)


def test_signals_to_the_group_leave_processes_alone(index: ShardIndex) -> None:
    with ClipLoader(SmallPlan(index), PYAV, range(30), num_workers=1, prefetch_samples=1) as loader:
        next(loader)
        (process,) = children(os.getpid())
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
            os.kill(process, number)
        assert len(list(loader)) == 29
        assert children(os.getpid()) == [process]


def test_an_exception_in_the_consumer_leaves_nothing(index: ShardIndex, tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        with ClipLoader(odd_plan(index, tmp_path / "note", {3: "hang"}), PYAV, range(5), 2) as loader:
            next(loader)
            raise KeyError("the consumer's")
    assert not children(os.getpid())


PARENT = """
import itertools, os, sys, time
from pathlib import Path
from tests.data.test_workers import OddSample, SmallPlan, PYAV, children
from vidtron.data.shards.index import ShardIndex
from vidtron.data.decoding.loader import ClipLoader
folder, note, end = sys.argv[1:]
samples = list(ShardIndex.open([folder]))
samples[1] = OddSample(samples[1], "hang", Path(note))
loader = ClipLoader(SmallPlan(samples), PYAV, itertools.count(), 2)
next(loader)
while not Path(note).exists():
    time.sleep(0.02)
print(*children(os.getpid()), flush=True)
if end == "exception":
    raise ValueError("the consumer's")
if end == "exit":
    sys.exit(3)
time.sleep(1000)
"""


@pytest.mark.parametrize("end", ["SIGKILL", "SIGTERM", "exception", "exit"])
def test_processes_go_with_their_parent(index: ShardIndex, tmp_path: Path, end: str) -> None:
    """One of them is in the middle of a clip that never ends."""
    arguments = [str(index[0].shard.parent), str(tmp_path / "note"), end]
    parent = subprocess.Popen([sys.executable, "-c", PARENT, *arguments], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    processes = [int(process) for process in parent.stdout.readline().split()]
    assert len(processes) == 2
    if end.startswith("SIG"):
        parent.send_signal(getattr(signal, end))
    status = parent.wait(timeout=300)  # the clip hangs for 1000 s
    assert status == {"exception": 1, "exit": 3}.get(end, -getattr(signal, end, 0))
    wait_for(lambda: not any(alive(process) for process in processes))
    parent.stdout.close()


def test_deaths_are_told_once(index: ShardIndex, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with ClipLoader(odd_plan(index, tmp_path / "note", {1: "kill", 3: "kill"}), PYAV, range(5), 2) as loader:
        assert [clip.row for clip in loader] == [0, 2, 2, 4, 4]
    assert caplog.text.count("a decoding process") == 1


def test_odd_samples_read_as_their_base(index: ShardIndex, tmp_path: Path) -> None:
    odd = OddSample(index[0], "none", tmp_path / "note")
    assert odd.read("mp4") == index[0].read("mp4") and odd.caption() == index[0].caption()

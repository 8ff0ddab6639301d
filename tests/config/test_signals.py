"""Signals from a program's first line on, before anything is imported."""

import os
import signal
import subprocess
import sys

import pytest

STOP = """
import os, signal
from vidtron.config import signals
signals.listen_for_stop()
{act}
print("went on", signals.taken_over())
{later}
"""
TOOL = """
import os, signal, sys
from vidtron.config import signals
signals.listen_for_end()
{early}
def main():
    try:
        {act}
    finally:
        print("cleaned up")
    return {status}
signals.run_tool(main, "go on")
"""


def run(program: str, **environment: str) -> tuple[int, list[str], list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


def kill(name: str) -> str:
    return f"os.kill(os.getpid(), signal.{name})"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2"])
def test_a_run_of_one_rank_leaves_at_once(name: str) -> None:
    status, out, err = run(STOP.format(act=kill(name), later=""))
    assert (status, out) == (0, [])
    assert err == ["leaving before the first step (signal); there is nothing to save"]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_one_rank_of_several_goes_on_to_where_all_agree(name: str) -> None:
    status, out, err = run(STOP.format(act=kill(name), later=kill(name)), WORLD_SIZE="2", RANK="1")
    number = getattr(signal, name)
    assert (status, out, err) == (0, [f"went on {number!s}"], []), "what comes after the run is over is passed over"


def test_a_second_ctrl_c_ends_a_rank() -> None:
    status, out, err = run(STOP.format(act=kill("SIGINT") + "\n" + kill("SIGINT"), later=""), WORLD_SIZE="2")
    assert (status, out) == (130, [])
    assert err == ["interrupted again: leaving at once, before the first step"]


@pytest.mark.parametrize(("name", "status", "word"), [("SIGTERM", 143, "SIGTERM"), ("SIGINT", 130, "Ctrl-C")])
def test_a_tool(name: str, status: int, word: str) -> None:
    early = run(TOOL.format(early=kill(name), act="pass", status=0))
    assert early == (status, [], [f"interrupted ({word}); nothing was begun"])
    late = run(TOOL.format(early="", act=kill(name), status=0))
    assert late == (status, ["cleaned up"], [f"interrupted ({word}); go on"])
    assert run(TOOL.format(early="", act=kill(name), status=0), RANK="1") == (status, ["cleaned up"], [])


def test_a_tool_that_is_left_alone() -> None:
    assert run(TOOL.format(early="", act="pass", status=3)) == (3, ["cleaned up"], [])
    status, out, err = run(TOOL.format(early="", act="raise signals.storage.StorageError('no room')", status=0))
    assert (status, out, err) == (1, ["cleaned up"], ["error: no room"])


def test_what_the_background_ignores_stays_ignored() -> None:
    program = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    status, out, _ = run(program + STOP.format(act=kill("SIGINT"), later=""))
    assert (status, out) == (0, ["went on None"])

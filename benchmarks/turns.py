"""Two checkouts of vidtron that take turns on one machine."""

import contextlib
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from common import describe_machine

HERE = Path(__file__).resolve().parents[1]
STEP = Path(__file__).with_name("checkout_step.py")


def beside_checkout(other: Path, words: Sequence[str], steps: int) -> str:
    """Steps of this checkout and of another one, each in a process of its own, as a page of Markdown.

    Args:
        other: the folder of a checkout that has `benchmarks/common.py`.
        words: arguments of `checkout_step.py`.
        steps: of each.
    """
    other = other.resolve()
    if not (other / "benchmarks" / "common.py").is_file():
        raise SystemExit(f"error: --against {other}: no benchmarks/common.py there; accepted: a checkout of vidtron")
    if other == HERE:
        raise SystemExit(f"error: --against {other}: that is this checkout; accepted: another one")
    times: dict[Path, list[float]] = {HERE: [], other: []}
    with serving(HERE, words) as mine, serving(other, words) as theirs:
        turns = [(HERE, mine), (other, theirs)]
        for _ in range(steps):
            for checkout, process in turns:
                times[checkout].append(one_step(process))
            turns.reverse()  # who comes second finds other things in the caches
    here, there = (statistics.median(times[checkout]) for checkout in (HERE, other))
    ratios = [mine / theirs for mine, theirs in zip(times[HERE], times[other], strict=True)]
    return (
        f"# Training step of two checkouts\n\n{describe_machine()}\n"
        f"{' '.join(words)}, median of {steps} steps in turns\n\n"
        "| checkout | commit | seconds |\n| --- | --- | --- |\n"
        f"| this | {commit(HERE)} | {here:.3f} |\n| against | {commit(other)} | {there:.3f} |\n\n"
        f"this / against: {here / there:.3f} (each turn: {min(ratios):.3f} to {max(ratios):.3f})"
    )


@contextlib.contextmanager
def serving(checkout: Path, words: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """A process that makes steps of a checkout, warmed up."""
    # A process that waits must not keep cores busy with threads that spin.
    path = {"PYTHONPATH": os.pathsep.join(map(str, (checkout, checkout / "benchmarks"))), "OMP_WAIT_POLICY": "passive"}
    # A script's own folder would come before PYTHONPATH, and with it this checkout's `common`.
    start = f"import runpy, sys; sys.argv[0] = {str(STEP)!r}; runpy.run_path(sys.argv[0], run_name='__main__')"
    with subprocess.Popen(
        [sys.executable, "-c", start, *words],
        cwd=checkout, env={**os.environ, **path}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            used = answer(process)
            if Path(used) != checkout:
                raise SystemExit(f"error: {checkout}: its process has imported vidtron from {used}")
            yield process
        finally:
            process.terminate()


def one_step(process: subprocess.Popen[str]) -> float:
    """Run a process's next step, and give its seconds."""
    assert process.stdin is not None
    process.stdin.write("step\n")
    process.stdin.flush()
    return float(answer(process))


def answer(process: subprocess.Popen[str]) -> str:
    """The next line that a process prints."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"error: the process in {process.args!r} has ended; what it printed stands above")
    return line.strip()


def commit(checkout: Path) -> str:
    """Commit of a checkout, marked if files differ from it."""
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=checkout, capture_output=True, text=True
    ).stdout.strip()
    return told or "unknown"

"""Signals that ask a program to end, from its first line on: importing torch and its like takes many seconds.

Imports nothing that takes time. An entry point calls `listen_for_stop` or `listen_for_end` before its other imports.
"""

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from vidtron.config import storage

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
"""After these a training run saves and leaves: what schedulers send before they take a job's machines away, and
Ctrl-C."""
END_SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""These end a tool."""

_received: signal.Signals | None = None
_run_begun = False
_former: dict[signal.Signals, Any] = {}
"""What the signals did before `listen_for_end`."""


class Interrupted(KeyboardInterrupt):
    """A signal ends this program; what it has begun to write is removed on the way out."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number


def status_of(number: signal.Signals) -> int:
    """Exit status of a program that a signal has ended, as a shell would give it: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + number


def can_be_taken(number: signal.Signals) -> bool:
    """Whether a handler of ours may replace what a signal does now.

    Not one that was installed outside Python (a debugger's, faulthandler's), and not an ignored Ctrl-C: so a shell
    starts what it puts into the background.
    """
    handler = signal.getsignal(number)
    return handler is not None and not (number == signal.SIGINT and handler == signal.SIG_IGN)


def taken_over() -> signal.Signals | None:
    """The run listens itself from now on; returns what has come since `listen_for_stop`.

    When it listens no more it is over, and the program leaves anyway.
    """
    global _received, _run_begun
    came, _received, _run_begun = _received, None, True
    return came


def listen_for_stop() -> None:
    """For a training run, until the run listens itself.

    There is nothing yet to save. A run of one rank ends as soon as Python gets to it, with status 0 as every stop;
    the ranks of a larger one, which another rank's leaving would keep waiting, go on to where they can agree.
    """
    for number in filter(can_be_taken, STOP_SIGNALS):
        signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    global _received
    if _run_begun:
        return
    if os.environ.get("WORLD_SIZE", "1") == "1":
        _leave("leaving before the first step (signal); there is nothing to save", 0)
    if _received == number == signal.SIGINT:
        _leave("interrupted again: leaving at once, before the first step", status_of(signal.SIGINT))
    _received = signal.Signals(number)


def listen_for_end() -> None:
    """For a tool, until `run_tool` runs it: ends the program at once, which has not begun yet."""
    for number in filter(can_be_taken, END_SIGNALS):
        _former[number] = signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    _leave(_words(signal.Signals(number), "nothing was begun"), status_of(signal.Signals(number)))


def run_tool(main: Callable[[], int | None], advice: str) -> NoReturn:
    """Run a tool and end the program with the status that it returns.

    A signal interrupts it wherever it is: the tool cleans up, and the program ends with one line (of rank 0) and the
    signal's status. So it does where the tool cannot write, with the status of that.

    Args:
        main: the tool, which reads the command line itself.
        advice: what of its work is there after an interruption, or what to do.
    """
    for number in filter(can_be_taken, END_SIGNALS):
        signal.signal(number, _interrupt)
    try:
        status = main()
    except KeyboardInterrupt as error:
        came = error.number if isinstance(error, Interrupted) else signal.SIGINT
        if os.environ.get("RANK", "0") == "0":
            print(_words(came, advice), file=sys.stderr, flush=True)
        sys.exit(status_of(came))
    except storage.StorageError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(storage.EXIT_STATUS)
    finally:
        for number, handler in _former.items():
            signal.signal(number, handler)
    sys.exit(status or 0)


def _interrupt(number: int, frame: FrameType | None) -> None:
    # Another one must not tear the cleaning up; who presses Ctrl-C again does not want to wait for it.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if can_be_taken(signal.SIGINT):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    raise Interrupted(signal.Signals(number))


def _words(number: signal.Signals, advice: str) -> str:
    return f"interrupted ({'Ctrl-C' if number == signal.SIGINT else number.name}); {advice}"


def _leave(line: str, status: int) -> NoReturn:
    """End the process here. Not by an exception: that may come up inside an extension that is being imported, which
    swallows it or aborts."""
    if os.environ.get("RANK", "0") == "0":
        os.write(2, f"{line}\n".encode())
    os._exit(status)

"""Reasons to save and leave before the last iteration."""

import os
import signal
import sys
import time
from types import FrameType
from typing import Any

from vidtron.config import signals
from vidtron.config.training import TrainingConfig
from vidtron.parallel import Groups
from vidtron.training.step_report import agree


class Interrupted(Exception):
    """The ranks have agreed to leave in the middle of something that is then left out."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        """One of `step_report.STOP_REASONS`."""


class StopRequests:
    """Notes signals, failures and the clock, on one rank; the ranks agree in `step_report`.

    A context manager: the handlers are its own while it is open and the former ones afterwards. Outside the main
    thread, where Python does not allow handlers, signals do not count. A second Ctrl-C raises KeyboardInterrupt:
    whoever presses it does not want to wait for the save. Other signals may come any number of times; launchers and
    schedulers send them to the same process by several ways.
    """

    def __init__(self, config: TrainingConfig, start: float | None = None) -> None:
        """
        Args:
            config: has `exit_duration_in_mins` and `exit_interval`.
            start: when the run began (time.monotonic); unset: now.
        """
        self.config = config
        self.start = time.monotonic() if start is None else start
        self.received: signal.Signals | None = None
        self.failure: str | None = None
        """What could not be written, in one line."""
        self._former: dict[signal.Signals, Any] = {}
        self._interrupts = 0

    def __enter__(self) -> "StopRequests":
        try:
            for number in filter(signals.can_be_taken, signals.STOP_SIGNALS):
                self._former[number] = signal.signal(number, self._note)
        except ValueError:  # not the main thread
            return self
        self.received = signals.taken_over()
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        if number != signal.SIGINT:
            return
        self._interrupts += 1
        if self._interrupts > 1:
            raise KeyboardInterrupt
        if sys.stderr.isatty():  # a print could come in the middle of another one
            os.write(2, b"\nleaving after what is at hand, with a save; Ctrl-C again leaves at once, without\n")

    def fail(self, failure: Exception) -> None:
        """Something that the run can do without for a moment could not be written: it is to stop. From any thread."""
        if self.failure is None:
            self.failure = str(failure)

    def wish(self) -> str | None:
        """Why this rank wishes to stop now, one of `step_report.STOP_REASONS`."""
        if self.failure is not None:
            return "failure"
        if self.received is not None:
            return "signal"
        minutes = self.config.exit_duration_in_mins
        if minutes is not None and time.monotonic() - self.start > minutes * 60:
            return "duration"
        return None

    def agreed(self, groups: Groups) -> str | None:
        """Why the run is to stop, the same on all ranks, which call this together."""
        return agree(self.wish(), groups)

    def before_first_step(self, groups: Groups) -> None:
        """All ranks together, while the run is being set up; its time does not count before it has trained.

        Raises:
            Interrupted: a signal has come.
        """
        if agree(None if self.received is None else "signal", groups) is not None:
            raise Interrupted("signal")

    def at_interval(self, iteration: int) -> bool:
        """Whether the run leaves after this iteration because of `--exit-interval`; all ranks know."""
        interval = self.config.exit_interval
        return interval is not None and iteration % interval == 0

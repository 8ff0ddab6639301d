"""Reasons to save and leave before the last iteration."""

import signal
import time
from types import FrameType
from typing import Any

from vidtron.config.training import TrainingConfig

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What schedulers send before they take a job's machines away."""


class StopRequests:
    """Notes signals and watches the clock, on one rank; the ranks agree elsewhere (`report.exchange`).

    A context manager: the handlers are its own while it is open and the former ones afterwards. Outside the main
    thread, where Python does not allow handlers, only the clock counts.
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
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequests":
        try:
            for number in SIGNALS:
                self._former[number] = signal.signal(number, self._note)
        except ValueError:  # not the main thread
            pass
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)

    def wish(self) -> str | None:
        """Why this rank wishes to stop now, one of `report.STOP_REASONS`."""
        if self.received is not None:
            return "signal"
        minutes = self.config.exit_duration_in_mins
        if minutes is not None and time.monotonic() - self.start > minutes * 60:
            return "duration"
        return None

    def at_interval(self, iteration: int) -> bool:
        """Whether the run leaves after this iteration because of `--exit-interval`; all ranks know."""
        interval = self.config.exit_interval
        return interval is not None and iteration % interval == 0

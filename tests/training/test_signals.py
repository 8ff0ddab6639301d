import os
import signal
import time

import pytest

from vidtron.config.training import TrainingConfig
from vidtron.training.signals import StopRequests


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signal(number):
    before = signal.getsignal(number)
    with StopRequests(TrainingConfig()) as requests:
        assert requests.wish() is None
        os.kill(os.getpid(), number)
        assert requests.wish() == "signal"
    assert signal.getsignal(number) == before


def test_duration():
    config = TrainingConfig(exit_duration_in_mins=1.0)
    assert StopRequests(config).wish() is None
    assert StopRequests(config, start=time.monotonic() - 61).wish() == "duration"


def test_interval():
    requests = StopRequests(TrainingConfig(exit_interval=3))
    assert [iteration for iteration in range(1, 8) if requests.at_interval(iteration)] == [3, 6]
    assert not StopRequests(TrainingConfig()).at_interval(1)

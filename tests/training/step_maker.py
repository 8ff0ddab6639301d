"""Steps for tests."""

from vidtron.config.data import ClipSize
from vidtron.data.planning.buckets import Bucket
from vidtron.training.step_plan import Step


def step_of(consumed: int, size: int, clip: tuple[int, int, int] = (9, 32, 48)) -> Step:
    """A step of clips of frames, height, width."""
    return Step(consumed, size, Bucket("test", "test", "1", ClipSize(*clip), None))

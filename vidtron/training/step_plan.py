"""What each optimizer step trains on: how many samples, and of which bucket."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vidtron.config.data import ClipSize
from vidtron.data.planning.buckets import Bucket
from vidtron.data.planning.plan import Plan


@dataclass(frozen=True)
class Step:
    """One global batch: the positions [consumed, consumed + size) of the plan."""

    consumed: int
    """Samples of the run before this step."""
    size: int
    """Samples of the step over all replicas."""
    bucket: Bucket
    """Bucket of all samples of the step."""

    @property
    def clip_size(self) -> ClipSize:
        """Size of all clips of the step."""
        return self.bucket.size


def step_at(plan: Plan, batch_size_at: Callable[[int], int], consumed: int) -> Step:
    """The step that starts at `consumed`.

    Args:
        plan: with buckets, it says how large each batch is.
        batch_size_at: says it otherwise.
        consumed: samples of the run before the step.
    """
    planned = plan.batch_at(consumed)
    return Step(consumed, planned.size or batch_size_at(consumed), planned.bucket)


def walk(at: Callable[[int], Step], consumed: int, steps: int) -> Iterator[Step]:
    """The next `steps` steps from the one on that starts at `consumed`."""
    for _ in range(steps):
        step = at(consumed)
        yield step
        consumed += step.size

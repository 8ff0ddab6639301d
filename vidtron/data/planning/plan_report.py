"""What an epoch of a plan consists of, and what of it should worry."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from vidtron.data.planning.buckets import Bucket

_NAMED = 8
"""So many buckets are named in one warning; the others are counted."""


@dataclass(frozen=True)
class BucketReport:
    """One bucket in one epoch."""

    bucket: Bucket
    samples: int
    """Samples that find this bucket."""
    batches: int
    left_over: int
    """Samples behind the last whole batch; they are not used."""
    tokens: int | None
    """Tokens of a batch; None where the model is not known."""
    flops: float | None
    """FLOPs of a batch, forward and backward."""


@dataclass(frozen=True)
class PlanReport:
    """One epoch."""

    epoch: int
    samples: int
    """Samples that come up for use; some may come up several times where folders are weighted."""
    buckets: tuple[BucketReport, ...]
    dropped: dict[str, int]
    """Samples in no bucket, by reason; reasons without any are left out."""

    @property
    def used(self) -> int:
        """Samples in batches."""
        return sum(one.samples - one.left_over for one in self.buckets)

    @property
    def left_over(self) -> int:
        """Samples that find a bucket and no whole batch."""
        return sum(one.left_over for one in self.buckets)

    @property
    def batches(self) -> int:
        """Global batches; without buckets, samples."""
        return sum(one.batches for one in self.buckets)


def report_warnings(report: PlanReport, batches: bool) -> Iterator[str]:
    """What should be known before training, one message each.

    Args:
        report: of an epoch.
        batches: there are buckets with batches.
    """
    for reason, count in report.dropped.items():
        yield f"{count:,} of {report.samples:,} clips are left out: {reason}"
    if not batches:
        return
    for name, group in groupby(report.buckets, lambda one: one.bucket.name.rpartition("-")[0]):
        ratios = list(group)
        if not any(one.samples for one in ratios):
            yield f"bucket {name} is empty: no clip finds it"
            continue
        small = [one for one in ratios if one.samples and not one.batches]
        if small:
            told = [f"{one.bucket.name} ({one.samples} of {one.bucket.batch_size})" for one in small[:_NAMED]]
            more = f" and {len(small) - _NAMED} more" if len(small) > _NAMED else ""
            yield f"buckets with fewer samples than a batch give none: {', '.join(told)}{more}"

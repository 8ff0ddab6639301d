"""What a plan does to the clips of its buckets: pixels that are cut off, frames that are made up, cost of steps."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vidtron.config.data import DataConfig
from vidtron.data.planning.buckets import Bucket
from vidtron.data.planning.plan import Plan
from vidtron.data.planning.windows import available_frames_of


@dataclass
class BucketStatistics:
    """One bucket, or several, over some epochs."""

    buckets: list[Bucket]
    samples: int = 0
    """Samples that find this bucket."""
    batches: int = 0
    left_over: int = 0
    tokens: int = 0
    """Tokens of all its batches, text included."""
    step_flops: list[float] = field(default_factory=list)
    """FLOPs of one batch, for each bucket that has some."""
    flops: float = 0.0
    """FLOPs of all its batches."""
    cut: float = 0.0
    """Sum over the samples of the share of the picture that is cropped."""
    padded: float = 0.0
    """Sum over the samples of the share of frames that short clips do not have."""

    @property
    def name(self) -> str:
        """Without the ratio, where there are several."""
        name = self.buckets[0].name
        return name if len(self.buckets) == 1 else name.rpartition("-")[0]


def statistics_of(plan: Plan, data: DataConfig, epochs: int) -> list[BucketStatistics]:
    """One for each bucket of the plan, over its first epochs. The plan knows the model's costs."""
    found = [BucketStatistics([bucket]) for bucket in plan.buckets]
    for epoch in range(epochs):
        for one, report in zip(found, plan.epoch_report(epoch).buckets, strict=True):
            assert report.tokens is not None and report.flops is not None
            one.samples += report.samples
            one.batches += report.batches
            one.left_over += report.left_over
            one.tokens += report.tokens * report.batches
            one.flops += report.flops * report.batches
            if one.batches:
                one.step_flops = [report.flops]
        for window in plan.window_rows(epoch):
            for one, rows in zip(found, window, strict=True):
                if len(rows):
                    _add_losses(one, plan, data, rows)
    return found


def merged(parts: Iterable[BucketStatistics]) -> BucketStatistics:
    """Several buckets as one."""
    whole = BucketStatistics([])
    for part in parts:
        for name in ("buckets", "samples", "batches", "left_over", "tokens", "step_flops", "flops", "cut", "padded"):
            setattr(whole, name, getattr(whole, name) + getattr(part, name))
    return whole


def spread(parts: Sequence[BucketStatistics]) -> tuple[float, float]:
    """(mean FLOPs of a step, their standard deviation as a share of it), of single buckets; there are steps."""
    batches = sum(part.batches for part in parts)
    mean = sum(part.flops for part in parts) / batches
    square = sum(part.batches * part.step_flops[0] ** 2 for part in parts if part.batches) / batches
    return mean, math.sqrt(max(0.0, square / mean**2 - 1))


def _add_losses(one: BucketStatistics, plan: Plan, data: DataConfig, rows: NDArray[np.int64]) -> None:
    size = one.buckets[0].size
    height, width, frames = (plan.index.take(name, rows).astype(np.int64) for name in ("height", "width", "frames"))
    # Clips are resized until they cover the size, then cropped.
    scale = np.maximum(size.height / height, size.width / width)
    one.cut += float((1 - size.height * size.width / (height * width * scale**2)).sum())
    clip_fps = frames if data.fps is None else plan.index.take("fps", rows)
    available = available_frames_of(frames, clip_fps, data.fps, data.frame_interval)
    one.padded += float((np.maximum(0, size.num_frames - available) / size.num_frames).sum())

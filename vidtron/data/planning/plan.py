"""The plan of a run: which samples stand where, as a pure function of (index, configuration, seed).

A position is the number of samples of the run before this one, epoch after epoch. With buckets the positions of a
global batch share a bucket, and batches follow each other without gaps; without, every position is a sample, and the
trainer cuts batches as it likes. The number of ranks, workers or micro-batches never enters.
"""

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from vidtron.config.data import DataConfig
from vidtron.data.fit import ClipFit
from vidtron.data.planning.buckets import Bucket, BucketTable, read_buckets, single_bucket
from vidtron.data.planning.buckets_assign import REASONS, Clips, Dropped, Rule
from vidtron.data.planning.buckets_draws import hashed, key_of
from vidtron.data.planning.epoch import EmptyPlanError, Schedule
from vidtron.data.planning.order import Order, sources_of
from vidtron.data.planning.plan_report import BucketReport, PlanReport, report_warnings
from vidtron.data.planning.windows import (
    available_frames_of,
    frame_numbers,
    opensora_frame_numbers,
    sat_frame_numbers,
    sat_gives_frames,
)
from vidtron.data.shards.index import ShardIndex

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class PlannedBatch:
    """A global batch."""

    first: int
    """Position of its first sample."""
    size: int | None
    """Samples; None without buckets: any number."""
    bucket: Bucket
    epoch: int


@dataclass(frozen=True)
class PlannedSample:
    """A sample of a global batch."""

    position: int
    row: int
    """Row of the index."""
    bucket: Bucket
    epoch: int


class Plan:
    """Says what stands at a position. Thread-safe; holds a few windows of samples, nothing of the index's size."""

    def __init__(
        self,
        index: ShardIndex,
        table: BucketTable,
        data: DataConfig,
        seed: int,
        fit: ClipFit | None,
        *,
        sequential: bool = False,
        weights: Sequence[float] | None = None,
        fixed_windows: bool = False,
    ) -> None:
        """
        Args:
            index: the samples.
            table: the buckets.
            data: everything else.
            seed: of all draws.
            fit: tells costs for reports.
            sequential: the order of the index and, but for SAT's rule, the middle of each clip, for evaluation.
            weights: share of each folder in an epoch; None: the folders as one.
            fixed_windows: a sample shows the same frames in every epoch.
        """
        self.index = index
        self.seed = seed
        self.buckets = table.buckets
        self._bucketed = table.buckets[0].batch_size is not None
        self._data = data
        self._fit = fit
        self._sequential = sequential
        self._fixed_windows = fixed_windows and data.clip_window == "random"  # the others are fixed anyway
        self._interval = data.frame_interval
        self._sat = data.clip_window == "sat"
        self._opensora = self._bucketed and data.bucket_rule == "opensora"
        if self._opensora:
            self._rule = Rule.opensora(table, seed, self._interval)
        else:
            self._rule = Rule.hash(table, seed, stretch=data.short_clip != "skip")
        sources = sources_of(index.folder_sizes, weights)
        self._order = Order(sources, seed, data.shuffle_slice, data.shuffle_window, sequential)
        self._schedule = Schedule(
            self._order,
            self._assign,
            np.array([bucket.batch_size or 1 for bucket in self.buckets]),
            keeps_all=not self._bucketed and data.short_clip != "skip" and not self._sat,
            fixed=not self._bucketed or self._rule.is_fixed(),
            keep_order=sequential,
        )

    @classmethod
    def from_config(
        cls,
        index: ShardIndex,
        data: DataConfig,
        seed: int,
        fit: ClipFit | None = None,
        *,
        sequential: bool = False,
        weights: Sequence[float] | None = None,
        fixed_windows: bool = False,
    ) -> "Plan":
        """The plan that a data configuration asks for.

        Args:
            index: the samples.
            data: the configuration; with `sequential`, without its buckets.
            seed: of all draws.
            fit: what the model takes; needed with buckets.
            sequential: the order of the index and, but for SAT's rule, the middle of each clip, for evaluation.
            weights: share of each folder in an epoch, adding up to 1; None: the folders as one.
            fixed_windows: a sample shows the same frames in every epoch.

        Raises:
            BucketError: the bucket configuration cannot be used; with every mistake.
            ValueError: weights do not fit the folders, or the seed not the bucket rule.
        """
        if sequential or data.bucket_config is None:
            table = single_bucket(data.size)
        else:
            if fit is None:
                raise ValueError("a plan with buckets asks the model which sizes it takes")
            table = read_buckets(data, fit)
        return cls(index, table, data, seed, fit, sequential=sequential, weights=weights, fixed_windows=fixed_windows)

    def batch_at(self, position: int) -> PlannedBatch:
        """The global batch that starts at a position; without buckets one starts everywhere.

        Raises:
            ValueError: none starts there, or there are none.
        """
        place = self._schedule.locate(position)
        if not self._bucketed:
            return PlannedBatch(position, None, self.buckets[0], place.epoch)
        due = self._schedule.due(place.epoch, place.window)
        number = int(np.searchsorted(due.ends, place.offset, "right"))
        bucket = self.buckets[due.buckets[number]]
        assert bucket.batch_size is not None
        first = position - place.offset + int(due.ends[number]) - bucket.batch_size
        if first != position:
            raise ValueError(
                f"position {position}: no batch starts there; accepted: {first} or {first + bucket.batch_size}, where "
                f"the batch of bucket {bucket.name} around it starts and ends"
            )
        return PlannedBatch(position, bucket.batch_size, bucket, place.epoch)

    def slot(self, position: int) -> PlannedSample:
        """The sample at a position."""
        place = self._schedule.locate(position)
        due = self._schedule.due(place.epoch, place.window)
        bucket = due.buckets[np.searchsorted(due.ends, place.offset, "right")]
        return PlannedSample(position, int(due.rows[place.offset]), self.buckets[bucket], place.epoch)

    def rows(self, first: int, count: int) -> Ints:
        """Rows of the index at the positions [first, first + count)."""
        pieces = [np.zeros(0, np.int64)]
        while count > 0:
            place = self._schedule.locate(first)
            rows = self._schedule.due(place.epoch, place.window).rows[place.offset :][:count]
            pieces.append(rows)
            first, count = first + len(rows), count - len(rows)
        return np.concatenate(pieces)

    def replacement(self, position: int, attempt: int) -> PlannedSample:
        """Another sample for a position, of the same bucket and epoch: first of the window where the position lies,
        then of the windows before and behind; each attempt gives another one.

        Args:
            position: whose sample cannot be used.
            attempt: 1 or more.

        Raises:
            ValueError: the bucket has no further sample in this epoch.
        """
        if attempt < 1:
            raise ValueError(f"attempt {attempt}; accepted: 1 or more")
        planned = self.slot(position)
        place, number = self._schedule.locate(position), self.buckets.index(planned.bucket)
        seen = np.array([planned.row])
        left = attempt
        for window in [*range(place.window, -1, -1), *range(place.window + 1, self._order.windows)]:
            rows = np.setdiff1d(self._schedule.samples(place.epoch, window).of(number), seen)
            if left <= len(rows):
                key = key_of("replacement", self.seed, position)
                row = rows[np.argsort(hashed(key, rows), kind="stable")[left - 1]]
                return PlannedSample(position, int(row), planned.bucket, place.epoch)
            left -= len(rows)
            seen = np.concatenate([seen, rows])
        raise ValueError(
            f"position {position}: bucket {planned.bucket.name} has no {attempt} other samples in epoch {place.epoch}"
        )

    def frames_at(self, sample: PlannedSample) -> list[int]:
        """Numbers of the frames that a sample shows at its position."""
        clip, num_frames = self.index[sample.row].clip, sample.bucket.size.num_frames
        centre = self._sequential or self._data.clip_window == "centre"
        if clip.frames == 1:
            return [0] * num_frames
        if self._sat:
            assert self._data.fps is not None
            return sat_frame_numbers(clip.frames, clip.fps, num_frames, self._data.fps)
        if self._opensora and not centre:
            key: object = self.index[sample.row].key if self._fixed_windows else sample.position
            generator = random.Random(key_of("opensora crop", self.seed, key))
            return opensora_frame_numbers(clip.frames, num_frames, self._interval, generator)
        where = 0.5 if centre else self._where(sample)
        return frame_numbers(clip, num_frames, self._data.fps, self._data.short_clip, where, self._interval)

    def fingerprint(self) -> str:
        """Names this function: plans of equal fingerprints give the same samples at the same positions."""
        data = self._data
        candidates = [
            (resolution.name, [(c.frames, c.keep, c.keep_frames) for c in resolution.candidates])
            for resolution in self._rule.table.resolutions
        ]
        key = (
            self.index.fingerprint,
            self._order.sources,
            [(tuple(bucket.size), bucket.ratio, bucket.batch_size) for bucket in self.buckets],
            (candidates, data.bucket_rule) if self._bucketed else None,
            self.seed,
            (data.shuffle_slice, data.shuffle_window, self._sequential),
            (data.fps, self._interval, data.short_clip, data.clip_window, self._fixed_windows),
        )
        return hashlib.blake2b(repr(key).encode(), digest_size=16).hexdigest()

    def epoch_report(self, epoch: int = 0) -> PlanReport:
        """What an epoch consists of. Goes through the whole epoch."""
        ledger = self._schedule.complete_ledger(epoch)
        counts = ledger.before[-1].tolist()
        buckets = [self._bucket_report(bucket, count) for bucket, count in zip(self.buckets, counts, strict=True)]
        dropped = {
            text: int(ledger.dropped[-1 - reason]) for reason, text in REASONS.items() if ledger.dropped[-1 - reason]
        }
        return PlanReport(epoch, self._order.samples, tuple(buckets), dropped)

    def window_rows(self, epoch: int) -> Iterator[list[Ints]]:
        """Rows of each bucket, window after window, those without a batch included."""
        for window in range(self._order.windows):
            samples = self._schedule.samples(epoch, window)
            yield [samples.of(number) for number in range(len(self.buckets))]

    def warnings(self) -> list[str]:
        """What should be known before training: clips left out, buckets that are empty or give no batch."""
        return list(report_warnings(self.epoch_report(), self._bucketed))

    def errors(self) -> list[str]:
        """Why nothing can be trained, empty where something can."""
        try:
            self._schedule.locate(0)
        except EmptyPlanError:
            report = self.epoch_report()
            folders = ", ".join(str(folder) for folder in self.index.folders)
            reasons = "".join(f"; {count} {reason}" for reason, count in report.dropped.items())
            size = self.buckets[0].size
            if self._bucketed:
                told = f"the {report.samples} clips in {folders} fill no global batch of any bucket"
                told += f"; {report.left_over} find a bucket" if report.left_over else ""
                return [told + reasons]
            if self._sat:
                return [f"none of the {report.samples} clips in {folders} gives frames by SAT's rule{reasons}"]
            rate = "" if self._data.fps is None else f" at {self._data.fps:g} frames a second"
            return [f"none of the {report.samples} clips in {folders} has {size.num_frames} frames{rate}"]
        return []

    def _assign(self, rows: Ints, visits: Ints) -> Ints:
        if self._schedule.keeps_all:
            return np.zeros(len(rows), np.int64)
        frames = self.index.take("frames", rows).astype(np.int64)
        if self._sat:
            assert self._data.fps is not None
            clip_fps, num_frames = self.index.take("fps", rows), self.buckets[0].size.num_frames
            given = (frames == 1) | sat_gives_frames(frames, clip_fps, num_frames, self._data.fps)
            return np.where(given, 0, int(Dropped.NOT_BY_SAT))
        clip_fps = frames if self._data.fps is None else self.index.take("fps", rows)
        available = available_frames_of(frames, clip_fps, self._data.fps, self._interval)
        if not self._bucketed:
            return np.where(available >= self.buckets[0].size.num_frames, 0, int(Dropped.TOO_SHORT))
        height, width = (self.index.take(name, rows).astype(np.int64) for name in ("height", "width"))
        return self._rule.assign(Clips(rows, visits, frames, available, height, width))

    def _where(self, sample: PlannedSample) -> float:
        """Place of the window in the clip, in [0, 1)."""
        # Late, because building shards needs no megatron-core.
        from vidtron.parallel.randomness import named_generator, sample_generator

        if self._fixed_windows:
            generator = named_generator(self.seed, f"window of {self.index[sample.row].key}")
        else:
            generator = sample_generator(self.seed, sample.position, "crop")
        return torch.rand((), generator=generator, dtype=torch.float64).item()

    def _bucket_report(self, bucket: Bucket, samples: int) -> BucketReport:
        size = bucket.batch_size or 1
        fit = self._fit
        return BucketReport(
            bucket,
            samples,
            batches=samples // size,
            left_over=samples % size,
            tokens=None if fit is None else fit.tokens(bucket.size) * size,
            flops=None if fit is None else fit.flops(bucket.size) * size,
        )

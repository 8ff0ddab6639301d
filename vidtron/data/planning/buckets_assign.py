"""Which bucket each clip of an epoch goes to: Open-Sora's walk over the buckets, for arrays of clips.

Resolutions are tried from the largest on; one whose nominal pixels times 0.8 the clip has not is passed over. There
the clip takes the most frames it is long enough for, and stays with the keep probability; otherwise it goes on to the
next smaller resolution, never to fewer frames of the same one. Images take the buckets of one frame.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vidtron.data.planning.buckets import BucketTable, Candidate, Resolution
from vidtron.data.planning.buckets_draws import hashed, key_of, numpy_uniform, uniform

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

ENOUGH_PIXELS = 0.8
"""A clip fills a resolution with this share of its nominal pixels."""
LARGEST_OPENSORA_SEED = 2**62


class Dropped(IntEnum):
    """Why a clip is in no bucket, as a number below 0."""

    TOO_SMALL = -1
    TOO_SHORT = -2
    NO_IMAGES = -3
    NOT_KEPT = -4
    NOT_BY_SAT = -5


REASONS = {
    Dropped.TOO_SMALL: "too small: fewer pixels than any resolution asks for",
    Dropped.TOO_SHORT: "too short: fewer frames than any bucket asks for",
    Dropped.NO_IMAGES: "images, and no bucket of one frame takes them",
    Dropped.NOT_KEPT: "not kept: drawn out by the keep probabilities",
    Dropped.NOT_BY_SAT: "not taken by SAT's rule: too short, or fewer frames a second than --fps",
}


class Clips(NamedTuple):
    """What an assignment looks at; arrays of the same length."""

    rows: Ints
    """Rows of the index."""
    visits: Ints
    """How often the row's source has been gone through before."""
    frames: Ints
    available: Ints
    """Frames that the clip gives at the frame interval or rate."""
    height: Ints
    width: Ints


Draw = Callable[[Clips, Candidate, int], NDArray[np.float64]]
"""(clips, candidate, number of the draw) -> numbers in [0, 1)."""


@dataclass(frozen=True)
class Rule:
    """How clips find their buckets."""

    table: BucketTable
    draw: Draw
    long_enough: Callable[[Clips, int], Bools]
    """(clips, frames) -> which are long enough."""
    stretch: bool
    """Videos too short for all buckets count as long enough for the shortest."""

    @classmethod
    def hash(cls, table: BucketTable, seed: int, stretch: bool) -> "Rule":
        """Draws from a hash of (seed, visit, row, candidate); exact lengths."""
        key = key_of("bucket draws", seed)

        def draw(clips: Clips, candidate: Candidate, number: int) -> NDArray[np.float64]:
            return uniform(hashed(key, clips.visits, clips.rows, candidate.number, number))

        return cls(table, draw, lambda clips, frames: clips.available >= frames, stretch)

    @classmethod
    def opensora(cls, table: BucketTable, seed: int, frame_interval: int) -> "Rule":
        """Open-Sora's generators, numpy's default one with a seed for each (epoch, row, candidate), and its lengths:
        more than frames x interval.

        Raises:
            ValueError: the seed is out of range.
        """
        if not 0 <= seed <= LARGEST_OPENSORA_SEED:
            raise ValueError(f"--seed {seed}: accepted with --bucket-rule opensora: 0 to {LARGEST_OPENSORA_SEED}")

        def draw(clips: Clips, candidate: Candidate, number: int) -> NDArray[np.float64]:
            return numpy_uniform(seed + clips.visits + clips.rows * table.shapes + candidate.number, number)

        return cls(table, draw, lambda clips, frames: clips.frames > frames * frame_interval, False)

    def is_fixed(self) -> bool:
        """Whether no draw decides anything, so that a clip always finds the same bucket."""
        return all(
            candidate.keep in (0.0, 1.0) and candidate.keep_frames in (None, 1.0)
            for resolution in self.table.resolutions
            for candidate in resolution.candidates
        )

    def assign(self, clips: Clips) -> Ints:
        """Numbers of the clips' buckets in `table.buckets`, or a value of `Dropped` [clips]."""
        pixels = clips.height * clips.width
        if self.stretch:
            clips = clips._replace(available=self._stretched(clips, pixels))
        result = np.full(len(clips.rows), int(Dropped.TOO_SMALL), np.int64)
        left = np.arange(len(clips.rows))
        for resolution in self.table.resolutions:
            inside = left[pixels[left] >= resolution.pixels * ENOUGH_PIXELS]
            is_image = clips.frames[inside] == 1
            self._assign_images(resolution, clips, inside[is_image], result)
            self._assign_videos(resolution, clips, inside[~is_image], result)
            left = left[result[left] < 0]
        return result

    def _assign_images(self, resolution: Resolution, clips: Clips, images: Ints, result: Ints) -> None:
        candidate = next((c for c in resolution.candidates if c.frames == 1), None)
        if candidate is None:
            _refuse(result, images, Dropped.NO_IMAGES)
            return
        # Upstream draws even where the probability is 1; the draw is below it.
        self._settle(resolution, candidate, clips, images, 0, result)

    def _assign_videos(self, resolution: Resolution, clips: Clips, videos: Ints, result: Ints) -> None:
        for candidate in resolution.candidates:
            if candidate.frames == 1 or not len(videos):
                continue
            chosen = self.long_enough(_taken(clips, videos), candidate.frames)
            if candidate.keep_frames is not None:
                long_ones = videos[chosen]
                drawn_out = self.draw(_taken(clips, long_ones), candidate, 0) > candidate.keep_frames
                _refuse(result, long_ones[drawn_out], Dropped.NOT_KEPT)
                chosen[np.flatnonzero(chosen)[drawn_out]] = False
            draw = 0 if candidate.keep_frames is None else 1
            self._settle(resolution, candidate, clips, videos[chosen], draw, result)
            videos = videos[~chosen]
        _refuse(result, videos, Dropped.TOO_SHORT)

    def _settle(
        self, resolution: Resolution, candidate: Candidate, clips: Clips, chosen: Ints, draw: int, result: Ints
    ) -> None:
        """Keep some of the clips that have chosen a candidate, in the bucket of their ratio."""
        kept = chosen
        if candidate.keep < 1:
            stay = np.zeros(len(chosen), bool)
            if candidate.keep > 0:
                stay = self.draw(_taken(clips, chosen), candidate, draw) < candidate.keep
            _refuse(result, chosen[~stay], Dropped.NOT_KEPT)
            kept = chosen[stay]
        if candidate.first is not None and len(kept):
            result[kept] = candidate.first + _nearest_ratio(resolution, clips.height[kept], clips.width[kept])

    def _stretched(self, clips: Clips, pixels: Ints) -> Ints:
        """Frames available, with videos too short for everything lifted to the shortest bucket they are large enough
        for."""
        thresholds = np.array([r.pixels * ENOUGH_PIXELS for r in self.table.resolutions])
        largest = np.searchsorted(-thresholds, -pixels)  # number of the first resolution that the clip fills
        shortest = np.zeros(len(thresholds) + 1, np.int64)
        for i in reversed(range(len(thresholds))):
            here = [c.frames for c in self.table.resolutions[i].candidates if c.frames > 1]
            beyond = [shortest[i + 1]] if shortest[i + 1] else []
            shortest[i] = min([*here, *beyond], default=0)
        return np.where(clips.frames == 1, clips.available, np.maximum(clips.available, shortest[largest]))


def _taken(clips: Clips, which: Ints) -> Clips:
    return Clips(*(column[which] for column in clips))


def _refuse(result: Ints, which: Ints, why: Dropped) -> None:
    """The reason that came closest to a bucket stays."""
    result[which] = np.minimum(result[which], int(why))


def _nearest_ratio(resolution: Resolution, height: Ints, width: Ints) -> Ints:
    """Number of the ratio whose name is nearest to height / width; of two, the first."""
    if len(resolution.ratios) == 1:
        return np.zeros(len(height), np.int64)
    names = np.array([float(name) for name in resolution.ratios])
    return np.argmin(np.abs(names - (height / width)[:, None]), axis=1)

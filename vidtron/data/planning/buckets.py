"""Buckets: the sizes of clips a run trains on, each with its global batch size.

A bucket is a resolution, a number of frames and an aspect ratio (height / width). Resolutions, ratios and the order
of everything are Open-Sora's; see `vidtron/data/planning/aspect_ratios.json`.
"""

import difflib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from vidtron.config import yaml_file
from vidtron.config.data import ClipSize, DataConfig
from vidtron.config.errors import ConfigurationError
from vidtron.config.ranges import field_range, shown
from vidtron.config.training import TrainingConfig
from vidtron.data.fit import ClipFit

FORMAT = "{resolution: {frames: [keep probability, global batch size]}}"
_FRAMES, _PIXELS = field_range(DataConfig, "num_frames"), field_range(DataConfig, "height")
_BATCH = field_range(TrainingConfig, "global_batch_size")
_ENTRY = (
    "accepted: [keep probability, global batch size], the probability 0 to 1 or a pair [of the resolution, of the "
    f"frames], the size {_BATCH}; [0, null] takes clips away"
)


class BucketError(ValueError):
    """A bucket configuration that cannot be used. `errors` holds one message per mistake."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = errors


@dataclass(frozen=True)
class Bucket:
    """Clips of one size that share global batches."""

    name: str
    """Name in logs: 480p-49f-0.56."""
    resolution: str
    ratio: str
    """Name of height / width."""
    size: ClipSize
    batch_size: int | None
    """Samples of a global batch; None without buckets: any number."""


@dataclass(frozen=True)
class Candidate:
    """All ratios of one resolution and number of frames."""

    frames: int
    keep: float
    """Share of the clips that stay; the others go to the next smaller resolution."""
    keep_frames: float | None
    """Share of the clips that take so many frames; the others try fewer. None: all, without a draw."""
    number: int
    """Running number in the order of the walk."""
    first: int | None
    """Number of the first ratio's bucket; the others follow. None: no clip stays."""


@dataclass(frozen=True)
class Resolution:
    """Shapes of about the same number of pixels."""

    name: str
    pixels: int
    ratios: dict[str, tuple[int, int]]
    """Name of height / width -> (height, width), before rounding."""
    candidates: tuple[Candidate, ...] = ()
    """What clips of this resolution are tried for, most frames first."""


@dataclass(frozen=True)
class BucketTable:
    """A bucket configuration, resolved."""

    resolutions: tuple[Resolution, ...]
    """Resolutions, the largest first."""
    buckets: tuple[Bucket, ...]
    shapes: int
    """Ratios of all candidates together, those that keep no clip included: Open-Sora's `num_bucket`."""


@cache
def resolutions() -> dict[str, Resolution]:
    """The named resolutions."""
    content = json.loads(Path(__file__).with_name("aspect_ratios.json").read_text(encoding="utf-8"))
    return {
        name: Resolution(name, pixels, {ratio: (height, width) for ratio, (height, width) in shapes.items()})
        for name, (pixels, shapes) in content.items()
    }


def single_bucket(size: ClipSize) -> BucketTable:
    """The only bucket of a run without a bucket configuration."""
    resolution = f"{size.height}x{size.width}"
    name = f"{resolution}-{size.num_frames}f"
    return BucketTable((), (Bucket(name, resolution, f"{size.height / size.width:.2f}", size, None),), 1)


def read_buckets(data: DataConfig, fit: ClipFit) -> BucketTable:
    """The buckets of --bucket-config, with the batch sizes that --bucket-batch asks for.

    Raises:
        BucketError: with every mistake.
    """
    path = data.bucket_config
    assert path is not None
    flag = f"--bucket-config {path}"
    try:
        content = yaml_file.load(path, "--bucket-config", f"a YAML file {FORMAT}")
    except ConfigurationError as error:
        raise BucketError(error.errors) from error
    try:
        table = parse_buckets(content, fit)
    except BucketError as error:
        raise BucketError([f"{flag}: {message}" for message in error.errors]) from error
    return replace(table, buckets=_batch_sizes(table.buckets, data, fit))


def parse_buckets(content: Any, fit: ClipFit) -> BucketTable:
    """Buckets of `{resolution: {frames: [keep probability, global batch size]}}`.

    Args:
        content: as YAML gives it; frames may be strings of digits.
        fit: rounds sizes to what the model takes, and refuses what it cannot.

    Raises:
        BucketError: with every mistake.
    """
    if not isinstance(content, dict) or not content:
        raise BucketError([f"holds no buckets; accepted: {FORMAT}"])
    errors: list[str] = []
    found: dict[str, tuple[Resolution, list[Candidate], dict[int, int]]] = {}
    for key, entries in content.items():
        name = shown(key)
        resolution = _resolution(name)
        if isinstance(resolution, str):
            errors.append(resolution)
        elif name in found:
            errors.append(f"resolution {name} stands there twice; accepted: once")
        elif not isinstance(entries, dict) or not entries:
            errors.append(f"{name}: {shown(entries)}; accepted: {{frames: [keep probability, global batch size]}}")
        else:
            candidates: list[Candidate] = []
            sizes: dict[int, int] = {}
            for frames, entry in entries.items():
                errors += _read_entry(name, frames, entry, fit, candidates, sizes)
            found[name] = resolution, sorted(candidates, key=lambda c: -c.frames), sizes
    table = _table([found[name] for name in sorted(found, key=lambda name: -found[name][0].pixels)], fit)
    errors += _size_errors(table.buckets, fit)
    if not errors and not table.buckets:
        errors.append("no bucket keeps any clip; accepted: a keep probability above 0")
    if errors:
        raise BucketError(errors)
    return table


def _resolution(name: str) -> Resolution | str:
    """The resolution of a name, or what is wrong with it."""
    shape = re.fullmatch(r"([1-9][0-9]{0,8})x([1-9][0-9]{0,8})", name)
    if shape:
        height, width = int(shape[1]), int(shape[2])
        if height not in _PIXELS or width not in _PIXELS:
            return f"resolution {name}; accepted: HEIGHTxWIDTH in pixels, {_PIXELS} each"
        return Resolution(name, height * width, {f"{height / width:.2f}": (height, width)})
    known = resolutions()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, cutoff=0.4)
    hint = f"{' or '.join(near)}?" if near else ", ".join(known)
    return f"unknown resolution {name}; accepted: {hint} Or HEIGHTxWIDTH in pixels, as 480x720"


def _read_entry(
    name: str, key: Any, entry: Any, fit: ClipFit, candidates: list[Candidate], sizes: dict[int, int]
) -> Iterator[str]:
    """Errors of one `frames: [...]`; a good one is added to `candidates`, its batch size to `sizes`."""
    told = f"{name}, {shown(key)} frames"
    frames = int(key) if isinstance(key, str) and re.fullmatch("[0-9]{1,9}", key) else key
    if not _is_whole(frames) or frames not in _FRAMES:
        yield f"{told}: accepted: a number of frames, {_FRAMES}"
        return
    if any(candidate.frames == frames for candidate in candidates):
        yield f"{told}: stand there twice; accepted: once"
        return
    if not isinstance(entry, list | tuple) or len(entry) != 2:
        yield f"{told}: {shown(entry)}; {_ENTRY}"
        return
    keep, batch_size = entry
    pair = list(keep) if isinstance(keep, list | tuple) else [keep]
    if len(pair) > 2 or not pair or not all(_is_share(p) for p in pair):
        yield f"{told}: keep probability {shown(keep)}; {_ENTRY}"
        return
    if len(pair) == 2 and frames == 1:
        yield f"{told}: a pair of keep probabilities; accepted for images: one number"
        return
    if (batch_size is not None or pair[0] > 0) and not (_is_whole(batch_size) and batch_size in _BATCH):
        yield f"{told}: batch size {shown(batch_size)}; {_ENTRY}"
        return
    accepted = fit.nearest_frames(frames)
    if pair[0] > 0 and accepted != (frames,):
        yield f"{told}: the model does not take so many; accepted: {' or '.join(map(str, accepted))}"
        return
    if pair[0] > 0:
        sizes[frames] = batch_size
    candidates.append(Candidate(frames, float(pair[0]), float(pair[1]) if len(pair) == 2 else None, 0, None))


def _table(found: list[tuple[Resolution, list[Candidate], dict[int, int]]], fit: ClipFit) -> BucketTable:
    """Numbers everything in the order of the walk."""
    walked: list[Resolution] = []
    buckets: list[Bucket] = []
    number = shapes = 0
    for resolution, candidates, sizes in found:
        numbered = []
        for candidate in candidates:
            first = len(buckets) if candidate.keep > 0 else None
            numbered.append(replace(candidate, number=number, first=first))
            number += 1
            shapes += len(resolution.ratios)
            if first is None:
                continue
            for ratio, (height, width) in resolution.ratios.items():
                name = f"{resolution.name}-{candidate.frames}f-{ratio}"
                size = ClipSize(candidate.frames, *fit.rounded_size(height, width))
                buckets.append(Bucket(name, resolution.name, ratio, size, sizes[candidate.frames]))
        walked.append(replace(resolution, candidates=tuple(numbered)))
    return BucketTable(tuple(walked), tuple(buckets), shapes)


def _size_errors(buckets: tuple[Bucket, ...], fit: ClipFit) -> Iterator[str]:
    for bucket in buckets:
        for error in fit.errors(bucket.size):
            yield f"bucket {bucket.name}: {error}"


def _batch_sizes(buckets: tuple[Bucket, ...], data: DataConfig, fit: ClipFit) -> tuple[Bucket, ...]:
    """The buckets with the sizes of --bucket-batch."""
    if data.bucket_batch == "given":
        return buckets
    if data.bucket_batch == "tokens":
        assert data.global_batch_tokens is not None
        return tuple(
            replace(bucket, batch_size=_rounded(data.global_batch_tokens / fit.tokens(bucket.size), data))
            for bucket in buckets
        )
    costs = [fit.flops(bucket.size) for bucket in buckets]
    dearest = max(range(len(buckets)), key=lambda i: costs[i])
    kept = buckets[dearest].batch_size
    assert kept is not None
    return tuple(
        bucket if i == dearest else replace(bucket, batch_size=_rounded(kept * costs[dearest] / costs[i], data))
        for i, bucket in enumerate(buckets)
    )


def _rounded(samples: float, data: DataConfig) -> int:
    """Down to a multiple of --bucket-batch-multiple, one at least."""
    multiple = data.bucket_batch_multiple
    # A hair more, so that a quotient that should be whole does not fall below it.
    return max(1, int(samples * (1 + 1e-12)) // multiple) * multiple


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1

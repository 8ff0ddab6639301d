"""Sampled clips of an index, each with three thumbnails.

Shapes: H height, W width, C colours.
"""

import base64
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vidtron.data.decoding import pyav
from vidtron.data.decoding.pyav import UndecodableError
from vidtron.data.shards.index import DamagedSampleError, Sample, ShardError, ShardIndex

THUMBNAIL_HEIGHT = 160
"""Pixels."""
_WIDEST = 480  # pixels; a panorama is made lower instead
_JPEG_QUALITY = 72
_UNREADABLE = (DamagedSampleError, ShardError, UndecodableError)


@dataclass(frozen=True)
class Card:
    """One sampled clip."""

    row: int
    """Row of the index."""
    key: str
    shard: str
    """File name."""
    folder: str
    codec: str
    caption: str
    """Empty where it cannot be read."""
    thumbnails: tuple[str, ...]
    """Data URIs of the first, middle and last frame; an image has one; none where they cannot be decoded."""
    problem: str
    """Why the caption or the thumbnails are missing; empty where nothing is."""


def sampled_rows(index: ShardIndex, samples: int, seed: int) -> NDArray[np.int64]:
    """Rows drawn without replacement, rising; the same ones for the same seed and number of rows."""
    generator = np.random.default_rng(seed)
    return np.sort(generator.choice(len(index), min(samples, len(index)), replace=False)).astype(np.int64)


def cards(index: ShardIndex, rows: NDArray[np.int64], workers: int) -> Iterator[Card]:
    """Cards of rows, in their order, decoded in threads. What cannot be read is a card with its reason."""
    ends = np.cumsum(index.folder_sizes)
    folders = [str(index.folders[place]) for place in np.searchsorted(ends, rows, side="right")]
    with ThreadPoolExecutor(max_workers=max(1, workers)) as threads:
        yield from threads.map(lambda row, folder: _card(index[row], row, folder), rows.tolist(), folders)


def shown_frames(frames: int) -> list[int]:
    """Numbers of the first, middle and last of a clip's frames, each once."""
    return sorted({0, (frames - 1) // 2, frames - 1})


def thumbnail(image_HWC: np.ndarray) -> str:
    """Data URI of a small JPEG of an RGB image, uint8 [H, W, C]."""
    image = Image.fromarray(image_HWC)
    image.thumbnail((_WIDEST, THUMBNAIL_HEIGHT), Image.Resampling.LANCZOS)
    target = io.BytesIO()
    image.save(target, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(target.getvalue()).decode("ascii")


def _card(sample: Sample, row: int, folder: str) -> Card:
    problems: list[str] = []
    caption = ""
    thumbnails: tuple[str, ...] = ()
    try:
        caption = sample.caption()
    except _UNREADABLE as error:
        problems.append(_reason(error))
    try:
        thumbnails = tuple(thumbnail(image_HWC) for image_HWC in _frames(sample))
    except _UNREADABLE as error:
        problems.append(f"cannot be decoded: {error}" if isinstance(error, UndecodableError) else _reason(error))
    return Card(
        row=row,
        key=sample.key,
        shard=PurePosixPath(str(sample.shard)).name,
        folder=folder,
        codec=sample.clip.codec,
        caption=caption,
        thumbnails=thumbnails,
        problem="; ".join(dict.fromkeys(problems)),  # one reason may hold for both
    )


def _frames(sample: Sample) -> Iterator[np.ndarray]:
    content, clip = sample.read(sample.media), sample.clip
    numbers = shown_frames(clip.frames)
    # One by one where a decoder may jump to a frame: what lies between is then not decoded.
    seeks = clip.plain and clip.times is None
    groups: Sequence[list[int]] = [[number] for number in numbers] if seeks else [numbers]
    for group in groups:
        for _, image_HWC in pyav.decode(content, clip, group):
            yield image_HWC


def _reason(error: Exception) -> str:
    return error.reason if isinstance(error, DamagedSampleError) else str(error)

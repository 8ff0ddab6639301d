"""From a sample's bytes to its frames, without torch: what decoding processes run.

Shapes: T frames, C colours, H height, W width.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vidtron.data.decoding import dali
from vidtron.data.decoding.frames_size import FrameSizer
from vidtron.data.decoding.pyav import UndecodableError, wanted_frames
from vidtron.data.errors import BadClipError
from vidtron.data.shards.index import Sample

Put = Callable[[int, np.ndarray], None]
"""Takes (place in the clip, uint8 RGB [C, H, W]); the array is good only for the call."""


@dataclass(frozen=True, slots=True)
class ClipTask:
    """What is to be decoded."""

    sample: Sample
    numbers: tuple[int, ...]
    """Numbers of the frames in the order in which they are shown; repeated ones are decoded once."""
    height: int
    """Pixels."""
    width: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(T, C, H, W) of the frames."""
        return len(self.numbers), 3, self.height, self.width


@dataclass(frozen=True, slots=True)
class ClipReport:
    """What there is to say of a clip besides its frames."""

    caption: str
    decoder: Literal["dali", "pyav"]
    dali_reason: str | None
    """Why DALI failed on a clip that PyAV could read; None where it did not."""
    read_seconds: float
    decode_seconds: float
    """Decoding, resizing and cutting."""


class FrameReader:
    """Reads samples with the decoder that suits each clip. Safe to call from several threads; picklable."""

    def __init__(self, decoder: Literal["auto", "dali", "pyav"], has_dali: bool, device: str = "cpu") -> None:
        """
        Args:
            decoder: auto uses DALI where it reads the clip, and PyAV for the rest; dali refuses the rest, but
            pictures, which PyAV always reads. has_dali: whether DALI may be used. device: where DALI decodes.
        """
        self.decoder = decoder
        self.device = device
        self._has_dali = has_dali

    def decoder_of(self, sample: Sample) -> Literal["dali", "pyav"]:
        """Which decoder reads a sample."""
        return "dali" if self._has_dali and not sample.image and dali.readable(sample.clip, self.device) else "pyav"

    def read(self, task: ClipTask, put: Put) -> ClipReport:
        """Decode a clip; `put` takes each frame. When it fails, some may have been put already.

        Raises:
            BadClipError: no decoder reads it.
            DamagedSampleError: its bytes are not there for good, or its caption is none.
            ShardError: the shard cannot be read.
        """
        start = time.perf_counter()
        sample = task.sample
        content = sample.read(sample.media)
        caption = sample.caption()
        read = time.perf_counter()
        try:
            decoder, dali_reason = self._decode(content, task, put)
        except UndecodableError as error:
            raise BadClipError(str(sample.shard), sample.key, str(error)) from error
        return ClipReport(caption, decoder, dali_reason, read - start, time.perf_counter() - read)

    def _decode(self, content: bytes, task: ClipTask, put: Put) -> tuple[Literal["dali", "pyav"], str | None]:
        sample = task.sample
        if self.decoder_of(sample) == "pyav":
            if self.decoder == "dali" and not sample.image:
                raise UndecodableError(f"DALI reads no {sample.clip.codec} here")
            _with_pyav(content, task, put)
            return "pyav", None
        try:
            frames = dali.decode(content, sample.clip, list(task.numbers), task.height, task.width, self.device)
        except UndecodableError as error:
            # DALI fails on clips that FFmpeg reads; what PyAV cannot read either is bad.
            _with_pyav(content, task, put)
            return "pyav", str(error)
        for place, image_CHW in enumerate(frames):
            put(place, image_CHW)
        return "dali", None


def _with_pyav(content: bytes, task: ClipTask, put: Put) -> None:
    places: dict[int, list[int]] = {}
    for place, number in enumerate(task.numbers):
        places.setdefault(number, []).append(place)
    sizer = FrameSizer(task.height, task.width)
    # One frame at a time, so that a long clip of large frames is never in memory as a whole.
    for number, frame in wanted_frames(content, task.sample.clip, list(task.numbers)):
        image_CHW = sizer(frame)
        for place in places[number]:
            put(place, image_CHW)

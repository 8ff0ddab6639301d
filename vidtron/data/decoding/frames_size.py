"""Frames resized to cover a size and cut to it around the centre.

Shapes: T frames, C colours, H height, W width.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

if TYPE_CHECKING:
    from torch import Tensor

# swscale widens its filters with the scale, which is antialiasing. Without full chroma it would resize the halved
# colour planes to half the target's width and repeat their pixels; and its quick conversion of frames that keep their
# size leaves the last columns unwritten where the width is no multiple of 32 (FFmpeg 8.1).
_FULL_CHROMA = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
# Averaging areas costs half of swscale's bicubic filter and is about as near to good filters of full-size RGB as
# torch's bicubic is: tests/data/test_frames_size.py.
_SMALLER = Interpolation.AREA | _FULL_CHROMA
_LARGER = Interpolation.BICUBIC | _FULL_CHROMA


def covering_size(old_height: int, old_width: int, height: int, width: int) -> tuple[int, int]:
    """(height, width) of a picture of the old one's shape that just covers height x width."""
    scale = max(height / old_height, width / old_width)
    return max(height, round(old_height * scale)), max(width, round(old_width * scale))


def centred(covering_height: int, covering_width: int, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of the part around the centre."""
    top, left = (covering_height - height) // 2, (covering_width - width) // 2
    return slice(top, top + height), slice(left, left + width)


class FrameSizer:
    """Makes RGB pictures of one size of PyAV's frames, in one pass of swscale: from the coded colours (with the
    frame's own tags of matrix and range; BT.601 where there are none) straight to small RGB planes."""

    def __init__(self, height: int, width: int) -> None:
        self.height = height
        self.width = width
        self._reformatter = VideoReformatter()  # keeps its tables from frame to frame
        self._planes: np.ndarray | None = None

    def __call__(self, frame: Any) -> np.ndarray:
        """uint8 RGB [C, height, width], upright; good until the next call."""
        turns = round(frame.rotation / 90) % 4
        height, width = (self.width, self.height) if turns % 2 else (self.height, self.width)
        size = covering_size(frame.height, frame.width, height, width)
        kind = _SMALLER if size[0] < frame.height else _LARGER
        planar = self._reformatter.reformat(frame, size[1], size[0], "gbrp", interpolation=kind, threads=1)
        rows, columns = centred(*size, height, width)
        if self._planes is None or self._planes.shape[1:] != (height, width):
            self._planes = np.empty((3, height, width), np.uint8)
        for channel, plane in zip((1, 2, 0), planar.planes, strict=True):  # green, blue, red
            self._planes[channel] = _pixels(plane)[rows, columns]
        return np.rot90(self._planes, turns, (1, 2)) if turns else self._planes


def _pixels(plane: Any) -> np.ndarray:
    """[rows, bytes of a line] without a copy."""
    return np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)


def resize_to_cover(frames_TCHW: "Tensor", height: int, width: int) -> "Tensor":
    """RGB tensors resized to cover a size: antialiased and bicubic, uint8 in and out, on their device."""
    old_height, old_width = frames_TCHW.shape[-2:]
    size = covering_size(old_height, old_width, height, width)
    if size != (old_height, old_width):
        frames_TCHW = _bicubic(frames_TCHW, size)
    rows, columns = centred(*size, height, width)
    return frames_TCHW[..., rows, columns].contiguous()


def _bicubic(frames_TCHW: "Tensor", size: tuple[int, int]) -> "Tensor":
    import torch
    import torch.nn.functional as F

    if frames_TCHW.device.type == "cpu":  # torch has an integer kernel here only
        return F.interpolate(frames_TCHW, size=size, mode="bicubic", antialias=True)
    resized = F.interpolate(frames_TCHW.float(), size=size, mode="bicubic", antialias=True)
    return resized.round_().clamp_(0, 255).to(torch.uint8)

"""Step motion: how the camera moves.

From the dense optical flow (Farneback 2003) between every 15th frame, by the rules of Open-Sora 1.1: from step to step
static, a zoom, a pan or a tilt; the whole clip is what more than half of its steps are.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import pyarrow as pa

from vidtron.config.ranges import Range
from vidtron.curation.frames import every
from vidtron.curation.step import Measure, RowStep
from vidtron.curation.table import Row

SENTENCES = {
    "static": "The camera is static.",
    "zoom in": "The camera is zooming in.",
    "zoom out": "The camera is zooming out.",
    "pan left": "The camera is panning left.",
    "pan right": "The camera is panning right.",
    "tilt up": "The camera is tilting up.",
    "tilt down": "The camera is tilting down.",
    "pan/tilt": "The camera is panning.",
    "dynamic": "The camera is moving.",
    "unknown": "",
}
"""What a caption says of each."""
_STILL_PIXELS = 1.0
_ZOOM_OUT_BELOW, _ZOOM_IN_ABOVE = 0.4, 0.6
_QUARTERS = ((45, "pan left"), (135, "tilt up"), (225, "pan right"), (315, "tilt down"), (360, "pan left"))
"""Direction in which the picture moves, in degrees below -> what the camera does."""


@dataclass(frozen=True)
class Motion(RowStep):
    """camera motion in words"""

    name: ClassVar[str] = "motion"
    adds: ClassVar[Mapping[str, pa.DataType]] = {"motion": pa.string()}
    packages: ClassVar[Mapping[str, str]] = {"cv2": "opencv-python-headless"}

    frame_interval: Annotated[int, Range(1, 1_000_000)] = 15
    """Every so-many-th frame is looked at."""
    short_side: Annotated[int, Range(1, 16384)] | None = None
    """Pixels to make frames smaller to first, which is faster; the limit of a static camera, 1 pixel, is then one of
    the small picture. Unset: as they are."""

    def open(self, worker: int) -> Measure:
        """Import OpenCV, and give the function that measures a row."""
        import cv2

        cv2.setNumThreads(1)
        return self._measure

    def _measure(self, row: Row) -> list[Row]:
        grey = (grey_picture(frame, self.short_side) for frame in every(Path(row["path"]), self.frame_interval))
        steps = [step_motion(*flow_facts(farneback(a, b))) for a, b in pairwise(grey)]
        # A clip shorter than the interval shows nothing of the camera.
        return [{"motion": clip_motion(steps) if steps else "unknown"}]


def grey_picture(frame_HWC: np.ndarray, short_side: int | None) -> np.ndarray:
    """[H, W], uint8, made smaller to the short side."""
    import cv2

    grey_HW = cv2.cvtColor(frame_HWC, cv2.COLOR_RGB2GRAY)
    height, width = grey_HW.shape
    if short_side is None or min(height, width) <= short_side:
        return grey_HW
    scale = short_side / min(height, width)
    return cv2.resize(grey_HW, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)


def farneback(first_HW: np.ndarray, second_HW: np.ndarray) -> np.ndarray:
    """Optical flow from one picture to the next, [H, W, (x, y)] in pixels, with the parameters of Open-Sora 1.1."""
    import cv2

    return cv2.calcOpticalFlowFarneback(
        first_HW, second_HW, None, pyr_scale=0.5, levels=3, winsize=15, iterations=3, poly_n=5, poly_sigma=1.2, flags=0
    )


def flow_facts(flow_HW2: np.ndarray) -> tuple[float, float, float]:
    """Median length in pixels, median direction in degrees (0 right, 90 down), share of the pixels that move away
    from the centre."""
    x, y = flow_HW2[..., 0], flow_HW2[..., 1]
    height, width = x.shape
    across = np.arange(width) - (width - 1) / 2
    down = np.arange(height)[:, None] - (height - 1) / 2
    outwards = float(np.mean(x * across + y * down > 0))
    direction = np.degrees(np.arctan2(y, x)) % 360
    return float(np.median(np.hypot(x, y))), float(np.median(direction)), outwards


def step_motion(length: float, direction: float, outwards: float) -> str:
    """Name of the camera's motion between two frames."""
    if length < _STILL_PIXELS:
        return "static"
    if outwards < _ZOOM_OUT_BELOW:
        return "zoom out"
    if outwards > _ZOOM_IN_ABOVE:
        return "zoom in"
    return next(name for limit, name in _QUARTERS if direction < limit)


def clip_motion(steps: Sequence[str]) -> str:
    """Name of the camera's motion in a clip: that of most steps, else what is common to them."""
    counts = Counter(steps)
    for name, count in counts.most_common(1):
        if 2 * count > len(steps):
            return name
    if "static" in counts:
        return "unknown"
    return "dynamic" if {"zoom in", "zoom out"} & counts.keys() else "pan/tilt"

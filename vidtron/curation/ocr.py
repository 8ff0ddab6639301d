"""Step ocr: how much text is in the picture.

As in Open-Sora 1.1 on one frame with its short side made 1024 pixels and cropped to a square, with the text detector
that lies inside the rapidocr package (PP-OCR) instead of DBNet++.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import pyarrow as pa

from vidtron.config.ranges import Range
from vidtron.curation.frames import count_frames, frames_at
from vidtron.curation.step import Measure, RowStep
from vidtron.curation.table import Row

_SIDE = 1024
_FRAME = 10


@dataclass(frozen=True)
class Ocr(RowStep):
    """text in the picture: number of boxes and share of the area"""

    name: ClassVar[str] = "ocr"
    adds: ClassVar[Mapping[str, pa.DataType]] = {"ocr": pa.int32(), "ocr_area": pa.float64()}
    packages: ClassVar[Mapping[str, str]] = {
        "cv2": "opencv-python-headless",
        "rapidocr": "rapidocr",
        "onnxruntime": "onnxruntime",
    }

    min_score: Annotated[float, Range(0, 1, below=True)] = 0.3
    """A box counts if the detector is surer than this."""

    def open(self, worker: int) -> Measure:
        """Load the detector from the package."""
        import cv2
        from rapidocr import RapidOCR

        cv2.setNumThreads(1)
        detector = RapidOCR(
            params={
                "Global.use_cls": False,
                "Global.use_rec": False,
                "Global.log_level": "error",
                "Det.box_thresh": self.min_score,
                "EngineConfig.onnxruntime.intra_op_num_threads": 1,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            }
        )
        return lambda row: [self._measure(detector, Path(row["path"]))]

    def _measure(self, detector: Any, path: Path) -> Row:
        count = count_frames(path)
        (frame,) = frames_at(path, [_FRAME if count > _FRAME else count // 2])
        square = centre_square(frame)
        found = detector(square[..., ::-1].copy())  # it expects blue first, as OpenCV reads pictures
        if found.boxes is None:
            return {"ocr": 0, "ocr_area": 0.0}
        boxes = [box for box, score in zip(found.boxes, found.scores, strict=True) if score > self.min_score]
        return {"ocr": len(boxes), "ocr_area": covered(boxes)}


def centre_square(frame_HWC: np.ndarray) -> np.ndarray:
    """The middle of a picture, made 1024 x 1024."""
    import cv2

    height, width = frame_HWC.shape[:2]
    scale = _SIDE / min(height, width)
    # Never a pixel less than the square because of rounding.
    size = (max(_SIDE, round(width * scale)), max(_SIDE, round(height * scale)))
    resized = cv2.resize(frame_HWC, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    top, left = (resized.shape[0] - _SIDE) // 2, (resized.shape[1] - _SIDE) // 2
    return resized[top : top + _SIDE, left : left + _SIDE]


def covered(boxes: list[np.ndarray]) -> float:
    """Share of the square that lies in at least one box."""
    import cv2

    mask = np.zeros((_SIDE, _SIDE), dtype=np.uint8)
    for box in boxes:
        cv2.fillPoly(mask, [np.asarray(box).round().astype(np.int32)], 1)
    return float(mask.mean())

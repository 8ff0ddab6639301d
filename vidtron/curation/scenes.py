"""Step scenes: where a video cuts from one scene to the next."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import pyarrow as pa

from vidtron.config.ranges import Range
from vidtron.curation.step import Measure, RowStep
from vidtron.curation.table import Row
from vidtron.data.decoding.pyav import UndecodableError

SCENES = pa.list_(pa.list_(pa.float64(), 2))


@dataclass(frozen=True)
class Scenes(RowStep):
    """scene cuts, by PySceneDetect's adaptive detector"""

    name: ClassVar[str] = "scenes"
    adds: ClassVar[Mapping[str, pa.DataType]] = {"scenes": SCENES}
    packages: ClassVar[Mapping[str, str]] = {"scenedetect": "scenedetect-headless"}

    threshold: Annotated[float, Range(0, 1000)] = 3.0
    """How many times the change from frame to frame exceeds that of its neighbours at a cut."""
    min_scene_frames: Annotated[int, Range(1, 1_000_000)] = 15
    """No cut comes sooner after the last one."""

    def open(self, worker: int) -> Measure:
        """Import PySceneDetect, and give the function that finds a row's scenes."""
        import cv2

        cv2.setNumThreads(1)
        return self._measure

    def _measure(self, row: Row) -> list[Row]:
        from scenedetect import AdaptiveDetector, SceneManager
        from scenedetect.backends.pyav import VideoStreamAv

        manager = SceneManager()
        manager.add_detector(AdaptiveDetector(adaptive_threshold=self.threshold, min_scene_len=self.min_scene_frames))
        manager.detect_scenes(VideoStreamAv(row["path"], suppress_output=True))
        # Seconds after the first frame. Without a cut the whole video is one scene.
        found = [[start.seconds, end.seconds] for start, end in manager.get_scene_list(start_in_scene=True)]
        if not found:
            raise UndecodableError("there are no frames in it")
        return [{"scenes": [[round(start, 6), round(end, 6)] for start, end in found]}]

"""An index whose samples are numbers in arrays, for plans: no files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidtron.data.shards.index import ClipFacts, Sample


class ArrayIndex(Sequence[Sample]):
    """What a plan asks of a `ShardIndex`."""

    def __init__(
        self,
        frames: Sequence[int],
        height: Sequence[int] | int = 480,
        width: Sequence[int] | int = 720,
        folder_sizes: Sequence[int] | None = None,
        fingerprint: str = "x",
        fps: float = 10.0,
    ) -> None:
        shape = np.zeros(len(frames), np.int64)
        self.columns: dict[str, NDArray] = {
            "frames": np.asarray(frames, np.int32),
            "height": (shape + np.asarray(height)).astype(np.int32),
            "width": (shape + np.asarray(width)).astype(np.int32),
            "fps": np.full(len(frames), fps),
        }
        self.fps = fps
        self.folder_sizes = list(folder_sizes or [len(frames)])
        self.folders = [Path(f"shards{i}") for i in range(len(self.folder_sizes))]
        self.fingerprint = fingerprint
        self.taken = 0
        """Values handed out so far."""

    def __len__(self) -> int:
        return len(self.columns["frames"])

    def __getitem__(self, row: int) -> Sample:  # type: ignore[override]
        height, width, frames = (int(self.columns[name][row]) for name in ("height", "width", "frames"))
        facts = ClipFacts(width, height, frames, self.fps, frames / self.fps, "vp9", "yuv420p", True)
        return Sample(f"clip{row}", Path("s.tar"), {}, facts, 5)

    def take(self, column: str, rows: NDArray[np.int64]) -> NDArray:
        self.taken += len(rows)
        return self.columns[column][rows]


def random_index(seed: int, samples: int, folders: int = 1) -> ArrayIndex:
    """Clips and images of many sizes."""
    rng = np.random.default_rng(seed)
    frames = np.where(rng.random(samples) < 0.2, 1, rng.integers(2, 90, samples))
    height, width = rng.integers(60, 1200, (2, samples))
    cuts = np.sort(rng.choice(np.arange(1, samples), folders - 1, replace=False)).tolist()
    sizes = np.diff([0, *cuts, samples]).tolist()
    return ArrayIndex(frames.tolist(), height.tolist(), width.tolist(), sizes)

"""A plan of one bucket in the order of the index, for tests of what reads it."""

from dataclasses import dataclass

from vidtron.config.data import ClipSize
from vidtron.data.shards.index import ShardIndex


@dataclass(frozen=True)
class SmallBucket:
    name: str
    size: ClipSize


@dataclass(frozen=True)
class SmallPlanned:
    position: int
    row: int
    bucket: SmallBucket
    epoch: int = 0


class SmallPlan:
    """Position p shows row p modulo the index, from frame 0 on; its replacements are the rows behind it."""

    def __init__(self, index: ShardIndex, num_frames: int = 9, height: int = 48, width: int = 72) -> None:
        self.index = index
        self.bucket = SmallBucket("only", ClipSize(num_frames, height, width))

    def slot(self, position: int) -> SmallPlanned:
        return SmallPlanned(position, position % len(self.index), self.bucket)

    def replacement(self, position: int, attempt: int) -> SmallPlanned:
        return SmallPlanned(position, (position + attempt) % len(self.index), self.bucket)

    def frames_at(self, planned: SmallPlanned) -> list[int]:
        """Every second frame, from one that moves with the position."""
        start = planned.position % 3
        return [start + 2 * number for number in range(self.bucket.size.num_frames)]

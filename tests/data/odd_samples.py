"""Samples that do to their reader what no file can, also in another process."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from vidtron.data.errors import ShardError
from vidtron.data.shards.index import ClipFacts, Sample


@dataclass(frozen=True)
class OddSample:
    """Behaves as the sample it is made of, but for `deed` before each read of the clip."""

    base: Sample
    deed: str
    """kill, kill once, hang, slow, refuse, bug."""
    note: Path
    """File that a reader adds a line to."""

    media = "mp4"
    image = False

    @property
    def key(self) -> str:
        return self.base.key

    @property
    def shard(self) -> object:
        return self.base.shard

    @property
    def clip(self) -> ClipFacts:
        return self.base.clip

    def caption(self) -> str:
        return self.base.caption()

    def read(self, extension: str) -> bytes:
        with self.note.open("a") as file:
            file.write(f"{os.getpid()}\n")
        times = len(self.note.read_text().splitlines())
        if self.deed == "kill" or (self.deed == "kill once" and times == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.deed == "hang":
            time.sleep(1000)
        if self.deed == "slow":
            time.sleep(0.3)
        if self.deed == "refuse":
            raise ShardError(f"{self.shard}: cannot be read, again and again")
        if self.deed == "bug":
            raise KeyError("a bug")
        return self.base.read(extension)

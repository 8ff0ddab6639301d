"""A step whose rows say what is to go wrong; in a module of its own because worker processes import it."""

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from vidtron.curation.step import Measure, RowStep
from vidtron.curation.table import Row


@dataclass(frozen=True)
class Fragile(RowStep):
    """length of a name, with accidents"""

    name: ClassVar[str] = "fragile"
    adds: ClassVar[Mapping[str, pa.DataType]] = {"length": pa.int64(), "copy": pa.int64()}

    log: Path
    """Each row that is begun adds its name here."""
    opening: str = ""
    """What goes wrong while it is opened."""

    def open(self, worker: int) -> Measure:
        if self.opening == "raises":
            raise ValueError("these weights are of something else")
        if self.opening == "dies":
            os._exit(3)
        return self._measure

    def _measure(self, row: Row) -> list[Row]:
        name = Path(row["path"]).name
        with self.log.open("a") as file:
            file.write(name + "\n")
        begun = self.log.read_text().split().count(name)
        if name == "raises":
            raise RuntimeError("no such\n  codec")
        if name == "dies" or (name == "dies-once" and begun == 1):
            os.kill(os.getpid(), signal.SIGSEGV)
        if name == "hangs":
            time.sleep(60)
        if name.startswith("slow"):
            time.sleep(0.1)
        copies = 2 if name == "twice" else 1
        return [{"length": len(name), "copy": copy} for copy in range(copies)]

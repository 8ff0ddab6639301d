"""Step clean: captions as they are trained on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from vidtron.curation.step import Measure, RowStep
from vidtron.curation.table import Row


@dataclass(frozen=True)
class Clean(RowStep):
    """captions without captioners' phrases, or cleaned for T5"""

    name: ClassVar[str] = "clean"
    needs: ClassVar[tuple[str, ...]] = ("path", "text")
    adds: ClassVar[Mapping[str, pa.DataType]] = {"text": pa.string()}
    packages: ClassVar[Mapping[str, str]] = {"bs4": "beautifulsoup4", "ftfy": "ftfy"}

    remove_prefix: bool = True
    """Leave out "The video shows" and the like at the beginning."""
    motion: bool = False
    """Say how the camera moves, by the column motion."""
    t5: bool = False
    """Clean as Open-Sora 1.1 does for T5: lower case, no addresses, file names and signs."""

    def needed(self) -> tuple[str, ...]:
        """The camera's motion only where it is to be told."""
        return (*self.needs, "motion") if self.motion else self.needs

    def open(self, worker: int) -> Measure:
        """Import the packages of the rules, and give the function that cleans a row's caption."""
        from vidtron.curation.caption_rules import clean_for_t5, with_motion, without_prefix

        def measure(row: Row) -> list[Row]:
            text = " ".join((row["text"] or "").split())
            if not text:
                raise ValueError("it has no caption in the column text")
            text = without_prefix(text) if self.remove_prefix else text
            text = with_motion(text, row["motion"]) if self.motion else text
            text = clean_for_t5(text) if self.t5 else text
            if not text:
                raise ValueError(f"nothing is left of the caption {row['text']!r}")
            return [{"text": text}]

        return measure

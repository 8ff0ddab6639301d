"""Indexes without shards, for tests of what only plans."""

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vidtron.data.shards.index import ClipFacts, ShardIndex
from vidtron.data.shards.index_writer import IndexWriter
from vidtron.data.shards.sample import IndexRow


def facts(frames: int = 10, **changed: Any) -> ClipFacts:
    """A regular clip of 72 x 48 pixels at 10 frames a second."""
    values = {"width": 72, "height": 48, "fps": 10.0, "codec": "vp9", "pixel_format": "yuv420p", "plain": True}
    values |= changed
    return ClipFacts(**{"frames": frames, "duration": frames / values["fps"], **values})


def row(key: str, clip: ClipFacts, shard: str = "s.tar", media: str = "mp4", **further: Any) -> IndexRow:
    """A row whose members lie nowhere."""
    return IndexRow(shard, key, media, {media: (512, 100), "txt": (1536, 5)}, clip, 5, **further)


def write_index(folder: Path, rows: Iterable[IndexRow], rows_per_batch: int = 65536, scores: Any = ()) -> Path:
    """The index of a folder of shards that are not there."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = {}
    with IndexWriter(folder, scores, rows_per_batch) as writer:
        for one in rows:
            ends = [offset + size for offset, size in one.members.values()]
            shards[one.shard] = max(shards.get(one.shard, 10240), *ends)
            writer.add(one)
        writer.finish(shards)
    return folder


def index_of(lengths: list[int], name: str = "clip") -> ShardIndex:
    """An index of clips with so many frames, with the keys clip0, clip1..."""
    with TemporaryDirectory() as folder:
        write_index(Path(folder), (row(f"{name}{i}", facts(frames)) for i, frames in enumerate(lengths)))
        return ShardIndex.open([folder], check_shards=False)  # what is mapped stays

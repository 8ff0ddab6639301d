"""Step scan: the files of a folder as a table."""

from collections import Counter
from pathlib import Path

import pyarrow as pa

from vidtron.curation.table import CurationError
from vidtron.data.building.clip_source import IMAGE_SUFFIXES, VIDEO_SUFFIXES


def scan(folder: Path, images: bool) -> pa.Table:
    """All videos of a folder, searched in depth, by name: `path`, and `name`, which is the path below the folder
    without its suffix (with it where two files differ in nothing else).

    Raises:
        CurationError: no such folder, or nothing in it.
    """
    if not folder.is_dir():
        raise CurationError(f"--input {folder}: no such folder; accepted: a folder of videos")
    suffixes = VIDEO_SUFFIXES | (IMAGE_SUFFIXES if images else frozenset())
    folder = folder.absolute()
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in suffixes and path.is_file()]
    if not paths:
        raise CurationError(f"--input {folder}: nothing in it; accepted: {', '.join(sorted(suffixes))} files")
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in paths]
    several = Counter(names)
    columns = {
        "path": [str(path) for path in paths],
        "name": [
            name if several[name] == 1 else path.relative_to(folder).as_posix()
            for path, name in zip(paths, names, strict=True)
        ],
        "error": [None] * len(paths),
    }
    return pa.table(columns, pa.schema([(name, pa.string()) for name in columns]))

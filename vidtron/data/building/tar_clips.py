"""Clips and captions out of tars that webdataset reads one after the other."""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from vidtron.data.building.captions import read_words
from vidtron.data.building.clip_source import SourceClip
from vidtron.data.building.tar_sources import TarSource, samples
from vidtron.data.shards.sample import CAPTION_EXTENSION, media_of


def list_tar_clips(sources: Sequence[TarSource], caption_key: str | None) -> Iterator[SourceClip]:
    """The samples of tars in their order, and a clip that is only a problem for each tar that cannot be read to its
    end.

    Args:
        sources: the tars.
        caption_key: see `captions.read_words`.
    """
    for source in sources:
        problems: list[str] = []
        for sample in samples(source, problems.append):
            yield _clip(source, sample, caption_key)
        for problem in problems:
            yield SourceClip(Path(source.name), "", None, problem, origin=source.name)


def _clip(source: TarSource, sample: dict[str, Any], caption_key: str | None) -> SourceClip:
    name = PurePosixPath(sample["__key__"])
    parts = [part for part in name.parts if part not in ("/", "..")]
    key = "/".join(parts)
    origin = f"{source.name}/{sample['__key__']}"
    extensions = [extension for extension in sample if not extension.startswith("__")]
    media = media_of(extensions)
    if media is None:
        problem = f"it has no video or image, only .{', .'.join(extensions)}"
        return SourceClip(Path(key), key, None, problem, origin=origin, key=key)
    path, content = Path(f"{key}.{media}"), sample[media]
    try:
        said = read_words(sample.get(CAPTION_EXTENSION), sample.get("json"), caption_key)
    except ValueError as error:
        return SourceClip(path, key, None, str(error), content=content, origin=origin, key=key)
    return SourceClip(
        path, key, said.caption, "", said.entries, content=content, origin=origin, key=key, flaw=said.flaw
    )

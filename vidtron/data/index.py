"""The index of a folder of shards: what is where, without opening a tar.

A folder of shards holds webdataset tars (members KEY.mp4, KEY.txt, KEY.json) and `index.jsonl`: one JSON object a
line, first a header (format, version, the shards with their sizes), then one line per sample in the order of the
shards.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vidtron.data.errors import DamagedSampleError, ShardError

INDEX_NAME = "index.jsonl"
FORMAT, VERSION = "vidtron-shards", 1
BUILD_COMMAND = "python tools/build_shards.py --input CLIPS --output SHARDS"


@dataclass(frozen=True, slots=True)
class ClipFacts:
    """What is known of an encoded clip."""

    width: int
    """Pixels, as the decoder gives them."""
    height: int
    frames: int
    """Frames a decoder gives."""
    fps: float
    """Average frames a second."""
    duration: float
    """Seconds from the first frame's time stamp to the last one's."""
    codec: str
    """FFmpeg's name of the decoder: h264, hevc, vp9, av1, mjpeg..."""
    pixel_format: str
    """FFmpeg's name: yuv420p, yuvj420p, yuv420p10le..."""
    plain: bool
    """Every packet is one frame, every key frame a place where decoding can start, and no rotation is asked for:
    all decoders number the frames alike and may seek."""
    times: tuple[float, ...] | None = None
    """Seconds of each frame after the first, where they are not regular (frame / fps)."""

    def as_json(self) -> dict[str, Any]:
        """As stored; `times` only where there are any."""
        content = asdict(self)
        if self.times is None:
            del content["times"]
        return content

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "ClipFacts":
        """From what `as_json` gave; other keys are ignored."""
        times = content.get("times")
        return cls(
            width=int(content["width"]),
            height=int(content["height"]),
            frames=int(content["frames"]),
            fps=float(content["fps"]),
            duration=float(content["duration"]),
            codec=str(content["codec"]),
            pixel_format=str(content["pixel_format"]),
            plain=bool(content["plain"]),
            times=None if times is None else tuple(float(t) for t in times),
        )


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of a shard."""

    key: str
    shard: Path
    members: dict[str, tuple[int, int]]
    """Byte offset and size in the shard of each member, by extension."""
    clip: ClipFacts
    caption_characters: int

    @property
    def media(self) -> str:
        """Extension of the video."""
        return "mp4"

    def read(self, extension: str) -> bytes:
        """The bytes of one member.

        Raises:
            DamagedSampleError: there is no such member, or the shard is shorter than the index says, or gone.
            ShardError: the shard cannot be read.
        """
        if extension not in self.members:
            raise DamagedSampleError(str(self.shard), self.key, f"it has no .{extension}")
        offset, size = self.members[extension]
        try:
            with self.shard.open("rb") as file:
                content = os.pread(file.fileno(), size, offset)
        except FileNotFoundError as error:
            raise DamagedSampleError(str(self.shard), self.key, "its shard is gone") from error
        except OSError as error:
            raise ShardError(f"{self.shard}: cannot be read for sample {self.key} ({error})") from error
        if len(content) != size:
            raise DamagedSampleError(str(self.shard), self.key, "its shard is shorter than the index says")
        return content

    def caption(self) -> str:
        """The caption."""
        try:
            return self.read("txt").decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise DamagedSampleError(str(self.shard), self.key, f"its caption is no UTF-8 ({error})") from error


def sample_line(shard: str, sample: Sample) -> str:
    """The index line of one sample, without a line feed."""
    content = {
        "shard": shard,
        "key": sample.key,
        "members": {extension: list(place) for extension, place in sample.members.items()},
        **sample.clip.as_json(),
        "caption_characters": sample.caption_characters,
    }
    return json.dumps(content, ensure_ascii=False)


def write_index(folder: Path, shards: dict[str, int], lines: Sequence[str], extra: dict[str, Any]) -> None:
    """Write the index of a folder, under a temporary name first.

    Args:
        folder: the folder of shards.
        shards: size in bytes of each shard, by name, in order.
        lines: what `sample_line` gave for each sample.
        extra: further entries of the header.
    """
    header = {"format": FORMAT, "version": VERSION, "samples": len(lines), "shards": shards, **extra}
    temporary = folder / f".{INDEX_NAME}.tmp"
    with temporary.open("w", encoding="utf-8") as file:
        for line in (json.dumps(header, ensure_ascii=False), *lines):
            file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / INDEX_NAME)


def read_header(folder: Path) -> dict[str, Any]:
    """The header of a folder's index.

    Raises:
        ShardError: there is none, or it is of another kind or version.
    """
    path = folder / INDEX_NAME
    with path.open(encoding="utf-8") as file:
        try:
            header = json.loads(file.readline())
        except ValueError as error:
            raise ShardError(f"{path}: its first line is no JSON ({error}); build the shards again") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ShardError(f"{path}: is not an index of shards")
    if header.get("version") != VERSION:
        raise ShardError(f"{path}: has version {header.get('version')}; accepted: {VERSION}. Build the shards again")
    return header


class ShardIndex(Sequence[Sample]):
    """All samples of one or several folders, in the order of folders and lines."""

    def __init__(self, samples: list[Sample], folders: list[Path], fingerprint: str) -> None:
        self._samples = samples
        self.folders = folders
        self.fingerprint = fingerprint
        """Hash of all index lines; the folders' own paths do not count."""

    @classmethod
    def open(cls, folders: Iterable[str | Path]) -> "ShardIndex":
        """Read the indexes of several folders.

        Raises:
            ShardError: a folder is missing, has no (readable) index or no samples, or a shard is missing or cut short.
        """
        paths = [Path(folder) for folder in folders]
        digest = hashlib.blake2b(digest_size=16)
        samples: list[Sample] = []
        for folder in paths:
            samples += _read_folder(folder, digest)
        return cls(samples, paths, digest.hexdigest())

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, row: Any) -> Any:
        return self._samples[row]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._samples)

    def codecs(self) -> dict[str, int]:
        """Number of samples of each codec."""
        return dict(Counter(sample.clip.codec for sample in self._samples))


def _read_folder(folder: Path, digest: "hashlib.blake2b") -> list[Sample]:
    if not folder.is_dir():
        raise ShardError(f"{folder}: no such folder; accepted: a folder of shards, made by `{BUILD_COMMAND}`")
    if not (folder / INDEX_NAME).is_file():
        tars = any(folder.glob("*.tar"))
        what = "has shards but no finished index" if tars else "holds no shards"
        raise ShardError(f"{folder}: {what} ({INDEX_NAME}); accepted: the output of `{BUILD_COMMAND}`")
    header = read_header(folder)
    for name, size in header["shards"].items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            state = "is missing" if found is None else f"has {found} bytes where the index says {size}"
            raise ShardError(f"{path}: {state}; copy it again or build the shards again")
    samples = []
    with (folder / INDEX_NAME).open(encoding="utf-8") as file:
        next(file)
        for number, line in enumerate(file, start=2):
            digest.update(line.encode())
            try:
                samples.append(_sample(folder, json.loads(line)))
            except (ValueError, KeyError, TypeError) as error:
                raise ShardError(f"{folder / INDEX_NAME}: line {number} is damaged ({error!r})") from error
    if len(samples) != header["samples"]:
        raise ShardError(f"{folder / INDEX_NAME}: has {len(samples)} of {header['samples']} samples; it was cut short")
    if not samples:
        raise ShardError(f"{folder}: its index is empty")
    return samples


def _sample(folder: Path, content: dict[str, Any]) -> Sample:
    return Sample(
        key=content["key"],
        shard=folder / content["shard"],
        members={extension: (int(offset), int(size)) for extension, (offset, size) in content["members"].items()},
        clip=ClipFacts.from_json(content),
        caption_characters=int(content["caption_characters"]),
    )

"""One sample of a folder of shards, and what is known of it."""

from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from vidtron.data.errors import DamagedSampleError
from vidtron.data.shards.members import header_length, header_problem
from vidtron.data.shards.sample_json import caption_at, parsed

VIDEO_EXTENSIONS = frozenset({"mp4", "mov", "m4v", "mkv", "webm", "avi", "mpg", "mpeg", "ts", "wmv", "flv"})
IMAGE_EXTENSIONS = frozenset({"jpg", "jpeg", "png", "webp"})
CAPTION_EXTENSION = "txt"


def media_of(extensions: Collection[str]) -> str | None:
    """Extension of a sample's video or, without one, of its image."""
    for kinds in (VIDEO_EXTENSIONS, IMAGE_EXTENSIONS):
        for extension in extensions:
            if extension in kinds:
                return extension
    return None


@dataclass(frozen=True, slots=True)
class ClipFacts:
    """What is known of an encoded clip. An image is a clip of one frame."""

    width: int
    """Pixels, as the decoder gives them."""
    height: int
    frames: int
    """Frames a decoder gives."""
    fps: float
    """Average frames a second."""
    duration: float
    """Seconds that it is shown, its last frame as long as the others: frames / fps; 0 for an image."""
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
        """The facts as they are stored; `times` only where there are any."""
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
class IndexRow:
    """What the index of one folder says of one sample."""

    shard: str
    """File name."""
    key: str
    media: str
    """Extension of the video or image, without a full stop."""
    members: dict[str, tuple[int, int]]
    """Byte offset and size in the shard of the members `media`, txt and, where there is one, json."""
    clip: ClipFacts
    caption_characters: int
    caption_tokens: int | None = None
    scores: dict[str, float | None] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The row as it is stored in the record of a shard that is being built."""
        return {**asdict(self), "clip": self.clip.as_json()}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "IndexRow":
        """From what `as_json` gave."""
        members = {extension: (int(offset), int(size)) for extension, (offset, size) in content["members"].items()}
        return cls(**{**content, "members": members, "clip": ClipFacts.from_json(content["clip"])})


class ShardFolder(Protocol):
    """Where shards lie, and how bytes of them are read."""

    def read(self, shard: str, shard_size: int, offset: int, size: int, key: str) -> bytes:
        """Bytes of a shard that the index says has `shard_size`.

        Raises:
            DamagedSampleError: they are not there for good.
            ShardError: reading failed again and again.
        """


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of a shard."""

    key: str
    shard: Path | str
    """A local path, or a URL."""
    members: dict[str, tuple[int, int]]
    """Byte offset and size in the shard of each member, by extension."""
    clip: ClipFacts
    caption_characters: int
    media: str = "mp4"
    """Extension of the video or image."""
    caption_tokens: int | None = None
    """Tokens of the caption, where a tokenizer was there to count them."""
    shard_size: int = 0
    """Bytes."""
    caption_key: str | None = None
    """Where the caption stands in the json (see `caption_at`); None: it is the .txt."""
    folder: ShardFolder | None = field(default=None, compare=False, repr=False)
    """Reads the shard; None: a sample that is only planned with."""

    @property
    def image(self) -> bool:
        """Whether it is a still picture."""
        return self.media in IMAGE_EXTENSIONS

    def read(self, extension: str) -> bytes:
        """The bytes of one member. Read errors that may pass are waited for and retried three times.

        Raises:
            DamagedSampleError: the sample can never be read: there is no such member, or not where the index says;
            the shard is shorter than the index says, or gone while its folder is there.
            ShardError: reading failed again and again.
        """
        if extension not in self.members:
            raise DamagedSampleError(str(self.shard), self.key, f"it has no .{extension}")
        assert self.folder is not None, "a sample that is only planned with"
        offset, size = self.members[extension]
        name = f"{self.key}.{extension}"
        before = header_length(name, offset)
        content = self.folder.read(Path(self.shard).name, self.shard_size, offset - before, before + size, self.key)
        problem = header_problem(content[:before], name, size)
        if problem:
            raise DamagedSampleError(str(self.shard), self.key, f"its .{extension}: {problem}")
        return content[before:]

    def caption(self) -> str:
        """The caption; errors as `read`, and DamagedSampleError where it is no UTF-8, or not in the json."""
        if self.caption_key is not None:
            about = self.read("json")
            try:
                return caption_at(parsed(about), self.caption_key)
            except ValueError as error:
                raise DamagedSampleError(str(self.shard), self.key, str(error)) from error
        content = self.read(CAPTION_EXTENSION)
        try:
            return content.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise DamagedSampleError(str(self.shard), self.key, f"its caption is no UTF-8 ({error})") from error

"""From a sample to the frames of a training clip.

Shapes: T frames, C colours, H height, W width.
"""

import logging
import threading
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vidtron.config.data import DataConfig
from vidtron.config.world import installed_packages
from vidtron.data import dali, pyav
from vidtron.data.index import Sample
from vidtron.data.pyav import UndecodableError

logger = logging.getLogger(__name__)

DALI_PACKAGE = "nvidia.dali"
_WARNINGS = 10


class BadClipError(RuntimeError):
    """A sample that no decoder can read. `shard`, `key` and `reason` say which and why."""

    def __init__(self, shard: str, key: str, reason: str) -> None:
        super().__init__(f"sample {key} of {shard} cannot be decoded: {reason}")
        self.shard = shard
        self.key = key
        self.reason = reason


def resize_to_cover(frames_TCHW: Tensor, height: int, width: int) -> Tensor:
    """Frames resized, antialiased and bicubic, until they just cover height x width, and cut to it around the centre.

    uint8 in and out, on the same device.
    """
    old_height, old_width = frames_TCHW.shape[-2:]
    scale = max(height / old_height, width / old_width)
    size = (max(height, round(old_height * scale)), max(width, round(old_width * scale)))
    if size != (old_height, old_width):
        frames_TCHW = _bicubic(frames_TCHW, size)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return frames_TCHW[..., top : top + height, left : left + width].contiguous()


def _bicubic(frames_TCHW: Tensor, size: tuple[int, int]) -> Tensor:
    if frames_TCHW.device.type == "cpu":  # torch has an integer kernel here only
        return F.interpolate(frames_TCHW, size=size, mode="bicubic", antialias=True)
    resized = F.interpolate(frames_TCHW.float(), size=size, mode="bicubic", antialias=True)
    return resized.round_().clamp_(0, 255).to(torch.uint8)


class ClipDecoder:
    """Decodes samples to a fixed size, with the decoder that suits each clip. Safe to call from several threads."""

    def __init__(
        self,
        height: int,
        width: int,
        decoder: Literal["auto", "dali", "pyav"] = "auto",
        device: torch.device | str = "cpu",
    ) -> None:
        """
        Args:
            height: pixels.
            width: pixels.
            decoder: auto uses DALI where it is installed and reads the clip, and PyAV for the rest; dali refuses
            the rest. device: where DALI decodes; the frames come back in CPU memory.

        Raises:
            ImportError: DALI is asked for and not installed.
        """
        self.height = height
        self.width = width
        self.decoder = decoder
        self.device = torch.device(device)
        has_dali = decoder != "pyav" and DALI_PACKAGE in installed_packages()
        if decoder == "dali" and not has_dali:
            raise ImportError("--decoder dali: DALI is not installed (nvidia-dali-cuda130)")
        if decoder == "auto" and not has_dali:
            logger.info("DALI is not installed; PyAV decodes all clips")
        self._has_dali = has_dali
        self._lock = threading.Lock()
        self.decoded = {"dali": 0, "pyav": 0}
        """Samples that each decoder has decoded."""
        self.rescued: list[str] = []
        """Keys of samples that DALI failed on and PyAV could read."""

    @classmethod
    def from_config(cls, data: DataConfig, device: torch.device | str | None = None) -> "ClipDecoder":
        """The decoder that a data configuration asks for; `device` None: this process's GPU, or the CPU without
        one."""
        if device is None:
            device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else "cpu"
        return cls(data.height, data.width, data.decoder, device)

    def decoder_of(self, sample: Sample) -> Literal["dali", "pyav"]:
        """Which decoder reads a sample."""
        return "dali" if self._has_dali and dali.readable(sample.clip, self.device) else "pyav"

    def decode(self, sample: Sample, numbers: list[int]) -> Tensor:
        """Frames [T, C, height, width], uint8 RGB in CPU memory, of the numbered frames of a sample.

        Raises:
            BadClipError: no decoder reads it.
            ShardError: the shard cannot be read.
        """
        content = sample.read("mp4")
        if self.decoder_of(sample) == "dali":
            try:
                frames_TCHW = self._with_dali(content, numbers)
                self._count("dali")
                return frames_TCHW
            except UndecodableError as error:
                dali_reason = str(error)
            # DALI fails on clips that FFmpeg reads; what PyAV cannot read either is bad.
            frames_TCHW = self._with_pyav(sample, content, numbers)
            with self._lock:
                self.rescued.append(sample.key)
                told = len(self.rescued)
            if told <= _WARNINGS:
                last = "; further ones are only counted" if told == _WARNINGS else ""
                logger.warning(
                    "DALI failed on sample %s of %s (%s), PyAV read it%s", sample.key, sample.shard, dali_reason, last
                )
            return frames_TCHW
        if self.decoder == "dali":
            raise BadClipError(str(sample.shard), sample.key, f"DALI reads no {sample.clip.codec} here")
        return self._with_pyav(sample, content, numbers)

    def _with_dali(self, content: bytes, numbers: list[int]) -> Tensor:
        frames_TCHW = dali.decode(content, numbers, self.device).permute(0, 3, 1, 2)
        return resize_to_cover(frames_TCHW, self.height, self.width).cpu()

    def _with_pyav(self, sample: Sample, content: bytes, numbers: list[int]) -> Tensor:
        resized: dict[int, Tensor] = {}
        try:
            # One frame at a time, so that a long clip of large frames is never in memory as a whole.
            for number, image_HWC in pyav.decode(content, sample.clip, numbers):
                frame_TCHW = torch.from_numpy(image_HWC).permute(2, 0, 1)[None]
                resized[number] = resize_to_cover(frame_TCHW, self.height, self.width)
        except UndecodableError as error:
            raise BadClipError(str(sample.shard), sample.key, str(error)) from error
        self._count("pyav")
        return torch.cat([resized[number] for number in numbers])

    def _count(self, name: str) -> None:
        with self._lock:
            self.decoded[name] += 1

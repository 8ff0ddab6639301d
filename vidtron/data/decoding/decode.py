"""From a sample to the frames of a training clip, as a tensor.

Shapes: T frames, C colours, H height, W width.
"""

import logging
import threading
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vidtron.config.data import DataConfig
from vidtron.config.world import installed_packages
from vidtron.data.decoding import dali
from vidtron.data.decoding.frames import ClipReport, ClipTask, FrameReader
from vidtron.data.decoding.frames_size import resize_to_cover
from vidtron.data.errors import BadClipError
from vidtron.data.shards.index import Sample

__all__ = ["DALI_PACKAGE", "BadClipError", "ClipDecoder", "resize_to_cover"]

logger = logging.getLogger(__name__)

DALI_PACKAGE = "nvidia.dali"
_WARNINGS = 10


class ClipDecoder:
    """Decodes samples with the decoder that suits each clip, and counts. Safe to call from several threads."""

    def __init__(self, decoder: Literal["auto", "dali", "pyav"] = "auto", device: torch.device | str = "cpu") -> None:
        """
        Args:
            decoder: auto uses DALI where it is installed and reads the clip, and PyAV for the rest; dali refuses
            the rest (but still pictures, which PyAV always reads). device: where DALI decodes; the frames come back
            in CPU memory.

        Raises:
            ImportError: DALI is asked for and not installed.
        """
        self.decoder = decoder
        self.device = torch.device(device)
        has_dali = decoder != "pyav" and DALI_PACKAGE in installed_packages()
        if decoder == "dali" and not has_dali:
            raise ImportError("--decoder dali: DALI is not installed (nvidia-dali-cuda130)")
        if decoder == "auto" and not has_dali:
            logger.info("DALI is not installed; PyAV decodes all clips")
        self.reader = FrameReader(decoder, has_dali, str(self.device))
        """Decodes without torch; a decoding process gets a copy."""
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
        return cls(data.decoder, device)

    def decoder_of(self, sample: Sample) -> Literal["dali", "pyav"]:
        """Which decoder reads a sample."""
        return self.reader.decoder_of(sample)

    def in_this_process(self, sample: Sample) -> bool:
        """Whether a sample must be decoded in the process that owns the GPU."""
        return dali.on_gpu(self.device) and self.decoder_of(sample) == "dali"

    def decode(self, sample: Sample, numbers: list[int], height: int, width: int) -> Tensor:
        """Frames [T, C, height, width], uint8 RGB in CPU memory, of the numbered frames of a sample, resized to
        cover the size and cut to it around the centre.

        Raises:
            BadClipError: no decoder reads it.
            DamagedSampleError: its bytes or its caption are not there for good.
            ShardError: the shard cannot be read.
        """
        return self.read(ClipTask(sample, tuple(numbers), height, width))[0]

    def read(self, task: ClipTask) -> tuple[Tensor, ClipReport]:
        """(frames, report) of a task, decoded in this thread; frames and errors as `decode`, pinned with a GPU."""
        frames_TCHW = torch.empty(task.shape, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
        array = frames_TCHW.numpy()

        def put(place: int, image_CHW: np.ndarray) -> None:
            array[place] = image_CHW

        report = self.reader.read(task, put)
        self.note(task.sample, report)
        return frames_TCHW, report

    def note(self, sample: Sample, report: ClipReport) -> None:
        """Count a decoded sample; tell of the first ones that DALI failed on."""
        with self._lock:
            self.decoded[report.decoder] += 1
            if report.dali_reason is None:
                return
            self.rescued.append(sample.key)
            told = len(self.rescued)
        if told <= _WARNINGS:
            last = "; further ones are only counted" if told == _WARNINGS else ""
            logger.warning(
                "DALI failed on sample %s of %s (%s), PyAV read it%s",
                sample.key, sample.shard, report.dali_reason, last,
            )  # fmt: skip

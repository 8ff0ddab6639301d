"""Decoding with NVIDIA DALI: NVDEC on a GPU, and on a CPU the codecs its own decoder reads.

DALI's dynamic mode is used, one clip a call: a clip that it cannot read then fails alone, and calls from several
threads run side by side. Importing this module does not import DALI.
"""

from typing import Any

import torch
from torch import Tensor

from vidtron.data.index import ClipFacts
from vidtron.data.pyav import UndecodableError

CPU_CODECS = frozenset({"vp8", "vp9", "mjpeg"})
GPU_CODECS = frozenset({"av1", "h264", "hevc", "vp8", "vp9"})
# DALI continues a clip that ends too soon with frames of this colour (its pad_mode "none" cannot be given in
# dynamic mode).
_FILL = (254, 1, 254)
_EIGHT_BIT_420 = frozenset({"yuv420p", "yuvj420p"})  # what every NVDEC reads


def readable(clip: ClipFacts, device: torch.device) -> bool:
    """Whether DALI reads this clip on this device and numbers its frames as everybody does."""
    if not clip.plain:
        return False
    if device.type == "cuda":
        return clip.codec in GPU_CODECS and clip.pixel_format in _EIGHT_BIT_420
    return clip.codec in CPU_CODECS


def decode(content: bytes, numbers: list[int], device: torch.device) -> Tensor:
    """Frames [T, H, W, C], uint8 RGB on the device, of the wanted numbers in their order.

    Raises:
        UndecodableError: DALI cannot read the clip, with DALI's reason.
        ImportError: DALI is not installed.
    """
    import numpy as np
    import nvidia.dali.experimental.dynamic as ndd

    wanted = sorted(set(numbers))
    selection: dict[str, Any] = {"frames": wanted}
    if wanted[-1] - wanted[0] + 1 == len(wanted):
        selection = {"start_frame": wanted[0], "sequence_length": len(wanted)}
    encoded = ndd.as_tensor(np.frombuffer(content, dtype=np.uint8))
    name = "gpu" if device.type == "cuda" else "cpu"
    try:
        frames = ndd.decoders.video(encoded, device=name, fill_value=list(_FILL), **selection).evaluate()
    except RuntimeError as error:
        raise UndecodableError(str(error).strip().splitlines()[0]) from error
    frames_THWC = torch.from_dlpack(frames)
    if (frames_THWC[-1] == frames_THWC.new_tensor(_FILL)).all():
        raise UndecodableError(f"frame {wanted[-1]} is missing")
    if wanted == numbers:
        return frames_THWC.clone()  # DALI's buffer lives no longer than its tensor
    places = {number: place for place, number in enumerate(wanted)}
    return frames_THWC[torch.tensor([places[number] for number in numbers], device=frames_THWC.device)]

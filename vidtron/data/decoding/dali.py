"""Decoding with NVIDIA DALI: NVDEC on a GPU, and on a CPU the codecs its own decoder reads.

DALI's dynamic mode is used, one clip a call: a clip that it cannot read then fails alone, and calls from several
threads run side by side. Importing this module imports neither DALI nor torch.

Shapes: T frames, C colours, H height, W width.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from vidtron.data.decoding.frames_size import centred, covering_size, resize_to_cover
from vidtron.data.decoding.pyav import UndecodableError, check_packets
from vidtron.data.shards.index import ClipFacts

if TYPE_CHECKING:
    import torch

CPU_CODECS = frozenset({"vp8", "vp9", "mjpeg"})
GPU_CODECS = frozenset({"av1", "h264", "hevc", "vp8", "vp9"})
# DALI continues a clip that ends too soon with frames of this colour (its pad_mode "none" cannot be given in
# dynamic mode).
_FILL = (254, 1, 254)
_EIGHT_BIT_420 = frozenset({"yuv420p", "yuvj420p"})  # what every NVDEC reads


def on_gpu(device: "torch.device | str") -> bool:
    """Whether a device is a GPU."""
    return str(device).startswith("cuda")


def readable(clip: ClipFacts, device: "torch.device | str") -> bool:
    """Whether DALI reads this clip on this device and numbers its frames as everybody does."""
    if not clip.plain:
        return False
    if on_gpu(device):
        return clip.codec in GPU_CODECS and clip.pixel_format in _EIGHT_BIT_420
    return clip.codec in CPU_CODECS


def decode(
    content: bytes, clip: ClipFacts, numbers: list[int], height: int, width: int, device: "torch.device | str"
) -> np.ndarray:
    """Frames [T, C, height, width], uint8 RGB in CPU memory, of the wanted numbers in their order, resized to cover
    the size and cut to it. All wanted frames are in memory in their full size for a moment.

    Args:
        content: the encoded clip.
        clip: what is known of it.
        numbers: of the frames.
        height: pixels.
        width: pixels.
        device: where to decode and resize.

    Raises:
        UndecodableError: DALI cannot read the clip, with DALI's reason, or its size lies.
        ImportError: DALI is not installed.
    """
    import nvidia.dali.experimental.dynamic as ndd

    wanted = sorted(set(numbers))
    # DALI itself would decode pictures of any size, and shows whatever it likes behind the end of a file.
    check_packets(content, clip, wanted[-1])
    selection: dict[str, Any] = {"frames": wanted}
    if wanted[-1] - wanted[0] + 1 == len(wanted):
        selection = {"start_frame": wanted[0], "sequence_length": len(wanted)}
    encoded = ndd.as_tensor(np.frombuffer(content, dtype=np.uint8))
    name = "gpu" if on_gpu(device) else "cpu"
    try:
        frames = ndd.decoders.video(encoded, device=name, fill_value=list(_FILL), **selection).evaluate()
    except RuntimeError as error:
        raise UndecodableError(str(error).strip().splitlines()[0]) from error
    if tuple(frames.shape[1:3]) != (clip.height, clip.width):
        raise UndecodableError("its frames have another size than the index says")
    sized = _sized_on_gpu if on_gpu(device) else _sized_on_cpu
    frames_TCHW = sized(ndd, frames, wanted[-1], height, width)
    if wanted == numbers:
        return frames_TCHW
    places = {number: place for place, number in enumerate(wanted)}
    return frames_TCHW[[places[number] for number in numbers]]


def _sized_on_gpu(ndd: Any, frames: Any, last: int, height: int, width: int) -> np.ndarray:
    import torch

    frames_THWC = torch.from_dlpack(frames)
    _check_last(bool((frames_THWC[-1] == frames_THWC.new_tensor(_FILL)).all()), last)
    return resize_to_cover(frames_THWC.permute(0, 3, 1, 2), height, width).cpu().numpy()


def _sized_on_cpu(ndd: Any, frames: Any, last: int, height: int, width: int) -> np.ndarray:
    from nvidia.dali.types import DALIInterpType

    _check_last(bool((np.from_dlpack(frames)[-1] == np.array(_FILL, np.uint8)).all()), last)
    size = covering_size(frames.shape[1], frames.shape[2], height, width)
    resized = ndd.resize(frames, size=list(size), interp_type=DALIInterpType.INTERP_CUBIC, antialias=True).evaluate()
    rows, columns = centred(*size, height, width)
    # A copy: DALI's buffer lives no longer than its tensor.
    return np.from_dlpack(resized)[:, rows, columns].transpose(0, 3, 1, 2).copy()


def _check_last(is_fill: bool, number: int) -> None:
    if is_fill:
        raise UndecodableError(f"frame {number} is missing")

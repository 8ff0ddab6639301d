"""Videos on disk and pictures of them.

Shapes: T frames, C colours, H height, W width; frames are uint8 RGB.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from vidtron.config.storage import whole_file, writing

_LABEL_HEIGHT, _GAP = 16, 4  # pixels
_PAPER, _INK = (255, 255, 255), (0, 0, 0)


def write_frames(folder: Path, frames_TCHW: Tensor) -> None:
    """Write each frame as a PNG: 0000.png, 0001.png, ..."""
    from PIL import Image

    _check_frames(frames_TCHW)
    folder.mkdir(parents=True, exist_ok=True)
    for number, image_HWC in enumerate(frames_TCHW.permute(0, 2, 3, 1).contiguous().cpu().numpy()):
        Image.fromarray(image_HWC).save(folder / f"{number:04d}.png")


def write_video(path: Path | str, frames_TCHW: Tensor, fps: float) -> None:
    """Write an H.264 mp4 that every player opens (4:2:0 colour).

    An odd height or width loses its last row or column: 4:2:0 colour has none.

    Raises:
        StorageError: it cannot be written; nothing is left of it.
        ValueError: no frames, not uint8, not three colours, or smaller than 2 x 2.
    """
    from fractions import Fraction

    import av

    _check_frames(frames_TCHW)
    height, width = (size // 2 * 2 for size in frames_TCHW.shape[2:])
    if not len(frames_TCHW) or not height or not width:
        raise ValueError(f"a video of shape {tuple(frames_TCHW.shape)} cannot be written")
    rate = Fraction(fps).limit_denominator(1001)
    with (
        writing(Path(path), "make room there"),
        whole_file(Path(path)) as part,
        av.open(str(part), "w", format="mp4") as container,
    ):
        stream = container.add_stream("libx264", rate=rate, options={"crf": "16", "preset": "medium"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for image_HWC in frames_TCHW[:, :, :height, :width].permute(0, 2, 3, 1).contiguous().cpu().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image_HWC, format="rgb24")))
        container.mux(stream.encode(None))


def read_video(path: Path | str | BinaryIO) -> tuple[Tensor, float]:
    """(frames [T, C, H, W], frames a second) of a video file, or of an open one.

    Raises:
        OSError, av.FFmpegError: it cannot be read.
        ValueError: there is no video in it.
    """
    import av

    with av.open(str(path) if isinstance(path, Path) else path) as container:
        if not container.streams.video:
            raise ValueError(f"{path}: there is no video in it")
        stream = container.streams.video[0]
        images = [torch.from_numpy(frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)]
        fps = float(stream.average_rate or 25)
    if not images:
        raise ValueError(f"{path}: there are no frames in it")
    return torch.stack(images).permute(0, 3, 1, 2).contiguous(), fps


def contact_sheet(rows: Sequence[tuple[str, Tensor]], path: Path | str, columns: int = 6, enlarge: int = 1) -> None:
    """Write a PNG with one labelled row of frames for each video, evenly spaced from the first to the last.

    Args:
        rows: (label, frames [T, C, H, W]); videos may differ in size and length.
        path: of the PNG.
        columns: frames shown of each video; fewer if it has fewer.
        enlarge: factor for small frames.

    Raises:
        ValueError: no rows, or frames that are none.
    """
    from PIL import Image, ImageDraw

    if not rows or columns < 1 or enlarge < 1:
        raise ValueError("a contact sheet needs a row, a column and a factor of 1 or more")
    strips: list[tuple[str, list[Image.Image]]] = []
    for label, frames_TCHW in rows:
        _check_frames(frames_TCHW)
        shown_TCHW = evenly_spaced(frames_TCHW, columns)
        pictures = [Image.fromarray(image_CHW.permute(1, 2, 0).contiguous().cpu().numpy()) for image_CHW in shown_TCHW]
        size = (frames_TCHW.shape[3] * enlarge, frames_TCHW.shape[2] * enlarge)
        strips.append((label, [picture.resize(size, Image.Resampling.NEAREST) for picture in pictures]))
    width = max(sum(picture.width + _GAP for picture in pictures) for _, pictures in strips) + _GAP
    height = sum(pictures[0].height + _LABEL_HEIGHT + _GAP for _, pictures in strips) + _GAP
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    y = _GAP
    for label, pictures in strips:
        draw.text((_GAP, y), label, fill=_INK)
        y += _LABEL_HEIGHT
        x = _GAP
        for picture in pictures:
            sheet.paste(picture, (x, y))
            x += picture.width + _GAP
        y += pictures[0].height + _GAP
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def evenly_spaced(frames_TCHW: Tensor, count: int) -> Tensor:
    """So many frames from the first to the last; all of a video that has no more."""
    count = min(count, len(frames_TCHW))
    return frames_TCHW[torch.linspace(0, len(frames_TCHW) - 1, count).round().int()]


def frame_grid(frames_TCHW: Tensor, columns: int = 4, rows: int = 2) -> Tensor:
    """One picture [C, rows H, columns W] of evenly spaced frames, in reading order; black where there are no more."""
    shown_TCHW = evenly_spaced(frames_TCHW, columns * rows)
    _, channels, height, width = shown_TCHW.shape
    grid_TCHW = shown_TCHW.new_zeros(rows * columns, channels, height, width)
    grid_TCHW[: len(shown_TCHW)] = shown_TCHW
    rows_RVCHW = grid_TCHW.view(rows, columns, channels, height, width)
    return rows_RVCHW.permute(2, 0, 3, 1, 4).reshape(channels, rows * height, columns * width)


def psnr(frames_TCHW: Tensor, reference_TCHW: Tensor) -> float:
    """Peak signal-to-noise ratio in dB over all pixels of two uint8 videos of one shape; infinite for equal ones."""
    if frames_TCHW.shape != reference_TCHW.shape:
        raise ValueError(f"videos of shapes {tuple(frames_TCHW.shape)} and {tuple(reference_TCHW.shape)}")
    if frames_TCHW.dtype != torch.uint8 or reference_TCHW.dtype != torch.uint8:
        raise ValueError("psnr compares uint8 frames")
    error = (frames_TCHW.double() - reference_TCHW.double()).square().mean().item()
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def _check_frames(frames_TCHW: Tensor) -> None:
    if frames_TCHW.ndim != 4 or frames_TCHW.shape[1] != 3 or frames_TCHW.dtype != torch.uint8 or not len(frames_TCHW):
        raise ValueError(
            f"frames of shape {tuple(frames_TCHW.shape)} and type {frames_TCHW.dtype}; accepted: [T, 3, H, W] uint8"
        )

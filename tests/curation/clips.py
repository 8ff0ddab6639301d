"""Small videos made in code for the steps of curation."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import av
import numpy as np
import pytest

HEIGHT, WIDTH = 96, 128
FPS = 10


def encoded(frames_HWC: Iterable[np.ndarray], fps: int = FPS, container: str = "mp4") -> bytes:
    """An H.264 video of RGB frames."""
    content = io.BytesIO()
    with av.open(content, "w", format=container) as output:
        stream = None
        for frame in frames_HWC:
            if stream is None:
                stream = output.add_stream("libx264", rate=fps, options={"crf": "12", "preset": "veryfast"})
                stream.height, stream.width, stream.pix_fmt = *frame.shape[:2], "yuv420p"
                stream.codec_context.thread_count = 1
            output.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        assert stream is not None
        output.mux(stream.encode())
    return content.getvalue()


def texture(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A smooth random picture, which optical flow can follow."""
    cv2 = pytest.importorskip("cv2")

    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def still(seed: int, frames: int = 20) -> list[np.ndarray]:
    """A picture that does not change."""
    return [texture(seed)] * frames


def moving(seed: int, across: float, down: float, frames: int = 31) -> list[np.ndarray]:
    """A picture that moves so many pixels a frame to the right and down."""
    far = int(frames * max(abs(across), abs(down))) + 8
    wide = texture(seed, HEIGHT + 2 * far, WIDTH + 2 * far)
    return [
        wide[top : top + HEIGHT, left : left + WIDTH]
        for n in range(frames)
        for top, left in [(far - round(n * down), far - round(n * across))]
    ]


def zooming(seed: int, factor: float, frames: int = 31) -> list[np.ndarray]:
    """A picture that is larger by this factor from frame to frame."""
    cv2 = pytest.importorskip("cv2")

    wide = texture(seed, 2 * HEIGHT, 2 * WIDTH)
    start = 1.0 if factor > 1 else factor**-frames
    pictures = []
    for n in range(frames):
        scale = start * factor**n
        turn = np.float32([[scale, 0, WIDTH / 2 - scale * WIDTH], [0, scale, HEIGHT / 2 - scale * HEIGHT]])
        pictures.append(cv2.warpAffine(wide, turn, (WIDTH, HEIGHT), flags=cv2.INTER_AREA))
    return pictures


def with_text(words: Sequence[str], frames: int = 12) -> list[np.ndarray]:
    """White lettering on grey, one line for each word."""
    cv2 = pytest.importorskip("cv2")

    picture = np.full((240, 320, 3), 60, dtype=np.uint8)
    for line, word in enumerate(words):
        cv2.putText(picture, word, (20, 60 + 70 * line), cv2.FONT_HERSHEY_SIMPLEX, 1.5, (255, 255, 255), 3)
    return [picture] * frames


def write(folder: Path, videos: dict[str, bytes | list[np.ndarray]]) -> Path:
    """Files of a folder, by name."""
    for name, video in videos.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(video if isinstance(video, bytes) else encoded(video))
    return folder


def three_scenes() -> list[np.ndarray]:
    """Scenes of 2.5, 3 and 2 seconds: cuts at 2.5 s and 5.5 s."""
    return [frame for seed, frames in ((1, 25), (2, 30), (3, 20)) for frame in moving(seed, 1, 0, frames)]

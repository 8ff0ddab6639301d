"""Small moving pictures for tests."""

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

ROOT = Path(__file__).parents[1]


def moving_picture(number: int, frames: int, height: int, width: int) -> np.ndarray:
    """[frames, height, width, 3] uint8: a disc that crosses coloured stripes; every number another picture."""
    y, x = np.mgrid[0:height, 0:width]
    rng = np.random.default_rng(number)
    speed, phase, size = rng.uniform(1, 4), rng.uniform(0, 6), rng.uniform(0.15, 0.3) * height
    pictures = []
    for t in range(frames):
        stripes = 127 + 100 * np.sin((x * rng.uniform(0.1, 0.1001) + y * 0.05 * (number % 3)) + phase + 0.1 * t)
        picture = np.stack([stripes, np.roll(stripes, number, axis=1), 255 - stripes], axis=-1)
        disc = (x - (speed * t * 2) % width) ** 2 + (y - height / 2) ** 2 < size**2
        picture[disc] = rng.integers(0, 255, 3) if t == 0 else picture[disc] * 0.2
        pictures.append(picture)
    return np.clip(np.stack(pictures), 0, 255).astype(np.uint8)


def write_clips(folder: Path, count: int, frames: int = 20, height: int = 64, width: int = 96) -> None:
    """`videos/clip_N.mp4` (VP9) and `labels/clip_N.txt`."""
    (folder / "videos").mkdir(parents=True)
    (folder / "labels").mkdir()
    for number in range(count):
        with av.open(folder / "videos" / f"clip_{number}.mp4", "w") as container:
            stream = container.add_stream("libvpx-vp9", rate=Fraction(8))
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.options = {"cpu-used": "8", "deadline": "realtime"}
            for picture in moving_picture(number, frames, height, width):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        (folder / "labels" / f"clip_{number}.txt").write_text(f"disc number {number} crosses the stripes\n")


def build_shards(clips: Path, shards: Path, *arguments: str) -> None:
    """Run the tool as a user does."""
    command = [sys.executable, "tools/build_shards.py", "--input", str(clips), "--output", str(shards), *arguments]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)

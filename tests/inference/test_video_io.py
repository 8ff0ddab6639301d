import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from vidtron.data.decoding.pixels import to_uint8
from vidtron.inference.video_io import contact_sheet, frame_grid, psnr, read_video, write_video


def moving_bar(frames: int, height: int, width: int) -> torch.Tensor:
    video_TCHW = torch.full((frames, 3, height, width), 40, dtype=torch.uint8)
    for i in range(frames):
        video_TCHW[i, 0, :, 2 * i : 2 * i + 8] = 220
    return video_TCHW


@pytest.mark.parametrize(("fps", "frames"), [(8.0, 17), (29.97, 1), (25.0, 5)])
def test_videos_come_back(tmp_path: Path, fps: float, frames: int) -> None:
    video_TCHW = moving_bar(frames, 64, 96)
    write_video(tmp_path / "new" / "v.mp4", video_TCHW, fps)
    back_TCHW, rate = read_video(tmp_path / "new" / "v.mp4")
    assert back_TCHW.shape == video_TCHW.shape and back_TCHW.dtype == torch.uint8
    assert rate == pytest.approx(fps, rel=1e-3)
    assert psnr(back_TCHW, video_TCHW) > 26
    if frames > 3:
        assert psnr(back_TCHW[1:], video_TCHW[:-1]) < psnr(back_TCHW, video_TCHW) - 5


def test_odd_sizes_lose_a_row_and_a_column(tmp_path: Path) -> None:
    video_TCHW = moving_bar(4, 33, 51)
    write_video(tmp_path / "v.mp4", video_TCHW, 8)
    back_TCHW, _ = read_video(tmp_path / "v.mp4")
    assert back_TCHW.shape == (4, 3, 32, 50)
    assert psnr(back_TCHW, video_TCHW[:, :, :32, :50]) > 24


def test_open_files_are_read(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", moving_bar(3, 16, 32), 8)
    with (tmp_path / "v.mp4").open("rb") as file:
        assert read_video(file)[0].shape == (3, 3, 16, 32)


@pytest.mark.parametrize(
    "frames_TCHW",
    [torch.zeros(2, 3, 8, 8), torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.zeros(0, 3, 8, 8, dtype=torch.uint8)],
)
def test_what_is_no_video_is_refused(tmp_path: Path, frames_TCHW: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="accepted"):
        write_video(tmp_path / "v.mp4", frames_TCHW, 8)
    with pytest.raises(ValueError, match="accepted"):
        contact_sheet([("x", frames_TCHW)], tmp_path / "s.png")


def test_a_contact_sheet_shows_frames_in_rows(tmp_path: Path) -> None:
    red, blue = torch.zeros(2, 9, 3, 20, 30, dtype=torch.uint8)
    red[:, 0], blue[:, 2] = 255, 255
    blue[-1] = 255  # the last frame is white
    contact_sheet([("original", red), ("sample", blue), ("short", red[:1])], tmp_path / "s.png", columns=3, enlarge=2)
    sheet = Image.open(tmp_path / "s.png").convert("RGB")
    colours = {colour: count for count, colour in sheet.getcolors(1 << 20)}
    picture = 40 * 60
    assert colours[(255, 0, 0)] == 4 * picture
    assert colours[(0, 0, 255)] == 2 * picture
    assert colours[(255, 255, 255)] > picture
    assert sum(count for (r, g, b), count in colours.items() if r == g == b < 128) > 100  # the labels


def test_psnr() -> None:
    a = torch.full((2, 3, 4, 4), 100, dtype=torch.uint8)
    assert psnr(a, a) == math.inf
    assert psnr(a, a + 10) == pytest.approx(10 * math.log10(255**2 / 100))
    assert psnr(a + 10, a) == psnr(a, a + 10)  # no wrapping around
    with pytest.raises(ValueError, match="shapes"):
        psnr(a, a[:1])
    with pytest.raises(ValueError, match="uint8"):
        psnr(a.float(), a.float())


def test_to_uint8_clamps_and_rounds() -> None:
    video_CTHW = torch.tensor([-2.0, -1.0, 0.0, 0.999, 1.0, 3.0]).expand(3, 6, 1, 6)
    frames_TCHW = to_uint8(video_CTHW)
    assert frames_TCHW.shape == (6, 3, 1, 6)
    assert frames_TCHW[0, 0, 0].tolist() == [0, 0, 128, 255, 255, 255]


def test_a_grid_of_frames_in_reading_order() -> None:
    frames_TCHW = torch.arange(9, dtype=torch.uint8).view(9, 1, 1, 1).expand(9, 3, 2, 2)
    grid_CHW = frame_grid(frames_TCHW, columns=3, rows=2)
    assert grid_CHW.shape == (3, 4, 6)
    assert grid_CHW[0, ::2, ::2].tolist() == [[0, 2, 3], [5, 6, 8]]
    short_CHW = frame_grid(frames_TCHW[1:3], columns=3, rows=1)
    assert short_CHW[0, 0].tolist() == [1, 1, 2, 2, 0, 0]

from pathlib import Path

import pytest
import torch

from tests.data.clip_files import build_shards, clip_bytes, damaged, rotated, shown_numbers
from vidtron.config.world import installed_packages
from vidtron.data.decoding import dali
from vidtron.data.decoding.decode import DALI_PACKAGE, BadClipError, ClipDecoder, resize_to_cover
from vidtron.data.decoding.pyav import UndecodableError
from vidtron.data.shards.index import Sample, ShardIndex

needs_dali = pytest.mark.skipif(DALI_PACKAGE not in installed_packages(), reason="DALI is not installed")
IRREGULAR = [0.1 * i + (0.5 if i >= 20 else 0.0) for i in range(40)]


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sample]:
    """One sample of every kind, as they come out of a build that copies."""
    clips = {codec: clip_bytes(codec=codec, tint=200) for codec in ("h264", "hevc", "vp9", "mjpeg")}
    clips["irregular"] = clip_bytes(seconds=IRREGULAR)
    clips["vp9irregular"] = clip_bytes(codec="vp9", seconds=IRREGULAR)
    clips["opengop"] = clip_bytes(options={"x264-params": "open-gop=1:bframes=3:keyint=12:scenecut=0:b-adapt=0"})
    index = build_shards(tmp_path_factory.mktemp("decode"), clips)
    return {sample.key: sample for sample in index}


SIZE = (48, 72)
WINDOWS = [[0], [0, 1, 2], list(range(11, 28)), [39], [5, 5, 9, 30, 30], [38, 39, 0, 1], list(range(40))]


@pytest.mark.parametrize("which", ["pyav", pytest.param("auto", marks=needs_dali)])
@pytest.mark.parametrize("kind", ["h264", "hevc", "vp9", "mjpeg", "irregular", "vp9irregular", "opengop"])
def test_exactly_the_wanted_frames(samples: dict[str, Sample], kind: str, which: str) -> None:
    clips = ClipDecoder(which)
    for numbers in WINDOWS:
        frames_TCHW = clips.decode(samples[kind], numbers, *SIZE)
        assert shown_numbers(frames_TCHW) == numbers
        assert frames_TCHW.shape == (len(numbers), 3, *SIZE) and frames_TCHW.dtype == torch.uint8
    assert not clips.rescued


@needs_dali
def test_the_decoder_follows_the_codec(samples: dict[str, Sample]) -> None:
    clips = ClipDecoder()
    assert {kind: clips.decoder_of(sample) for kind, sample in samples.items()} == {
        "h264": "pyav",
        "hevc": "pyav",
        "irregular": "pyav",
        "opengop": "pyav",
        "vp9": "dali",
        "vp9irregular": "dali",
        "mjpeg": "dali",
    }
    clips.decode(samples["vp9"], [3], *SIZE)
    clips.decode(samples["h264"], [3], *SIZE)
    assert clips.decoded == {"dali": 1, "pyav": 1}


@needs_dali
@pytest.mark.parametrize("kind", ["vp9", "mjpeg"])
def test_dali_and_pyav_show_the_same(samples: dict[str, Sample], kind: str) -> None:
    ours, theirs = (
        ClipDecoder(which).decode(samples[kind], list(range(40)), *SIZE).float() for which in ("pyav", "auto")
    )
    assert (ours - theirs).abs().mean() < 4  # colours are upsampled in different ways
    assert (ours[:-1] - theirs[1:]).abs().mean() > 10


def test_colours_are_right(samples: dict[str, Sample]) -> None:
    for kind in ("h264", "vp9", "mjpeg"):
        patch_C = ClipDecoder("pyav").decode(samples[kind], [0], *SIZE)[0, :, 40:46, 10:60].float().mean((1, 2))
        assert torch.allclose(patch_C, torch.tensor([200.0, 0.0, 0.0]), atol=6), kind


@pytest.mark.parametrize("clockwise", [90, 180, 270])
def test_rotated_clips_come_upright(tmp_path: Path, clockwise: int) -> None:
    content = clip_bytes(3, tint=200)
    index = build_shards(tmp_path, {"r": rotated(content, clockwise), "straight": content})
    turned, straight = index[0], index[1]
    assert not turned.clip.plain and straight.clip.plain
    assert (turned.clip.width, turned.clip.height) == ((48, 72) if clockwise % 180 else (72, 48))
    size = (turned.clip.height, turned.clip.width)
    seen = ClipDecoder().decode(turned, [0, 1, 2], *size)
    expected = torch.rot90(ClipDecoder().decode(straight, [0, 1, 2], *SIZE), -clockwise // 90, (2, 3))
    assert torch.equal(seen, expected)


def test_resizing_covers_and_cuts_around_the_centre() -> None:
    ramp_TCHW = torch.arange(0, 240, 2, dtype=torch.uint8).expand(2, 3, 60, 120).contiguous()
    square = resize_to_cover(ramp_TCHW, 30, 30)
    assert square.shape == (2, 3, 30, 30)
    assert abs(square.float().mean() - ramp_TCHW.float().mean()) < 1
    assert 60 - 4 < square[0, 0, 0, 0] < 60 + 4 and 180 - 4 < square[0, 0, 0, -1] < 180 + 4
    tall = resize_to_cover(ramp_TCHW, 90, 60)
    assert tall.shape == (2, 3, 90, 60)
    assert torch.equal(resize_to_cover(ramp_TCHW, 60, 120), ramp_TCHW)


def test_resizing_is_antialiased() -> None:
    stripes_TCHW = (torch.arange(128) % 2 * 255).to(torch.uint8).expand(1, 3, 128, 128).contiguous()
    grey = resize_to_cover(stripes_TCHW, 16, 16)
    assert (grey.float() - 127.5).abs().max() < 12


def replace_member(sample: Sample, content: bytes) -> None:
    offset, size = sample.members["mp4"]
    shard = bytearray(sample.shard.read_bytes())
    shard[offset : offset + size] = content[:size].ljust(size, b"\0")
    sample.shard.write_bytes(shard)


@pytest.mark.parametrize("codec", ["h264", "vp9"])
@pytest.mark.parametrize("harm", ["pictures", "everything", "end"])
def test_bad_clips_are_named(tmp_path: Path, codec: str, harm: str) -> None:
    content = clip_bytes(codec=codec)
    sample = build_shards(tmp_path, {"good": content})[0]
    replace_member(
        sample, {"pictures": damaged(content), "everything": b"nothing", "end": clip_bytes(20, codec)}[harm]
    )
    with pytest.raises(BadClipError, match=r"sample good of .*shard-000000\.tar cannot be decoded: \w+") as caught:
        ClipDecoder().decode(sample, list(range(20, 37)), *SIZE)
    assert (caught.value.key, caught.value.shard) == ("good", str(sample.shard))


@needs_dali
def test_pyav_reads_what_dali_fails_on(
    samples: dict[str, Sample], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: object) -> None:
        raise UndecodableError("it would not")

    monkeypatch.setattr(dali, "decode", fail)
    clips = ClipDecoder()
    assert shown_numbers(clips.decode(samples["vp9"], [7, 8], *SIZE)) == [7, 8]
    assert clips.rescued == ["vp9"] and clips.decoded == {"dali": 0, "pyav": 1}
    assert "it would not" in caplog.text and "sample vp9" in caplog.text
    for _ in range(20):
        clips.decode(samples["vp9"], [7], *SIZE)
    assert len(clips.rescued) == 21 and caplog.text.count("it would not") == 10


@needs_dali
def test_dali_alone_refuses_what_it_cannot_read(samples: dict[str, Sample]) -> None:
    with pytest.raises(BadClipError, match="DALI reads no h264 here"):
        ClipDecoder("dali").decode(samples["h264"], [0], *SIZE)
    assert shown_numbers(ClipDecoder("dali").decode(samples["vp9"], [4], *SIZE)) == [4]


def test_missing_dali(monkeypatch: pytest.MonkeyPatch, samples: dict[str, Sample]) -> None:
    monkeypatch.setattr("vidtron.data.decoding.decode.installed_packages", frozenset)
    with pytest.raises(ImportError, match="--decoder dali"):
        ClipDecoder("dali")
    assert ClipDecoder("auto").decoder_of(samples["vp9"]) == "pyav"


@pytest.mark.gpu
@needs_dali
@pytest.mark.parametrize("kind", ["h264", "hevc", "vp9"])
def test_nvdec_agrees_with_pyav(samples: dict[str, Sample], kind: str) -> None:
    gpu = ClipDecoder("dali", "cuda")
    for numbers in WINDOWS:
        assert shown_numbers(gpu.decode(samples[kind], numbers, *SIZE)) == numbers
    ours = ClipDecoder("pyav").decode(samples[kind], list(range(40)), *SIZE).float()
    assert (gpu.decode(samples[kind], list(range(40)), *SIZE).float() - ours).abs().mean() < 6


def test_irregular_times_are_in_the_index(samples: dict[str, Sample]) -> None:
    times = samples["irregular"].clip.times
    assert times is not None and times == pytest.approx(IRREGULAR, abs=1e-4)
    assert samples["h264"].clip.times is None
    assert samples["h264"].clip.fps == pytest.approx(10)


def test_folder_reopens(samples: dict[str, Sample]) -> None:
    again = ShardIndex.open([samples["vp9"].shard.parent])
    assert {sample.key: sample for sample in again} == samples

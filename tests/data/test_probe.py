from dataclasses import replace
from pathlib import Path

import pytest

from tests.data.clip_files import clip_bytes, damaged
from vidtron.data.building.probe import probe, seconds_of_video
from vidtron.data.decoding.pyav import UndecodableError, decode


@pytest.mark.parametrize("codec", ["h264", "hevc", "vp9", "mjpeg"])
def test_facts(codec: str) -> None:
    facts = probe(clip_bytes(25, codec, fps=10))
    assert (facts.width, facts.height, facts.frames, facts.codec) == (72, 48, 25, codec)
    assert facts.fps == pytest.approx(10) and facts.duration == pytest.approx(2.5, abs=1e-3)
    assert facts.plain and facts.times is None
    assert facts.pixel_format == ("yuvj420p" if codec == "mjpeg" else "yuv420p")


def test_the_last_frame_counts_for_the_duration() -> None:
    assert probe(clip_bytes(15, "h264", fps=8)).duration == 1.875


def test_one_frame() -> None:
    facts = probe(clip_bytes(1, "vp9", fps=10))
    assert (facts.frames, facts.duration, facts.times) == (1, 1 / facts.fps, None)


@pytest.mark.parametrize("container", ["matroska", "avi"])
def test_other_containers(container: str) -> None:
    facts = probe(clip_bytes(25, "h264", container=container, options={"bf": "0"}))
    assert facts.frames == 25
    assert facts.fps == pytest.approx(10, rel=1e-3)


def test_a_key_frame_that_is_none_is_found_out() -> None:
    """By the file's index every picture is a place to start from; in truth each 12th is."""
    content = clip_bytes(30, "h264", options={"bf": "0", "sc_threshold": "0"})
    assert probe(content).plain
    table = content.index(b"stss")
    count = int.from_bytes(content[table + 8 : table + 12], "big")
    assert count == 3
    renamed = content[:table] + b"free" + content[table + 4 :]  # without this table all samples are key frames
    facts = probe(renamed)
    assert facts.frames == 30
    assert not facts.plain
    assert [number for number, _ in decode(renamed, replace(facts, plain=True), [17, 18, 20])] == [17, 18, 20]


@pytest.mark.parametrize("codec", ["h264", "vp9"])
def test_unreadable_clips(codec: str, tmp_path: Path) -> None:
    content = clip_bytes(20, codec)
    for bad in (damaged(content), content[: len(content) // 2], b"", b"no video"):
        with pytest.raises(UndecodableError):
            probe(bad)
    with pytest.raises(UndecodableError, match="No such file"):
        probe(tmp_path / "missing.mp4")


def test_length_without_decoding(tmp_path: Path) -> None:
    for name, container in (("a.mp4", "mp4"), ("b.mkv", "matroska")):
        path = tmp_path / name
        path.write_bytes(clip_bytes(25, "h264", container=container))
        assert seconds_of_video(path) == pytest.approx(2.5, abs=0.11)


def claiming(content: bytes, table: bytes, place: int, value: bytes) -> bytes:
    """An mp4 in which a table says something else."""
    start = content.index(table) + 4 + place
    return content[:start] + value + content[start + len(value) :]


@pytest.mark.parametrize(
    ("table", "place", "value", "message"),
    [
        (b"vp09", 24, bytes.fromhex("7530 7530"), "it claims 30000 x 30000 pixels; accepted: at most 16384 a side"),
        (b"tkhd", 76, bytes.fromhex("7530 0000 7530 0000"), "it claims 30000 x 30000 pixels"),
    ],
)
def test_claims_beyond_all_clips_are_refused_unread(table, place, value, message, tmp_path: Path) -> None:
    content = claiming(clip_bytes(5, "vp9"), table, place, value)
    path = tmp_path / "claim.mp4"
    path.write_bytes(content)
    for source in (content, path):
        with pytest.raises(UndecodableError, match=message):
            probe(source)
    with pytest.raises(UndecodableError, match=message):
        list(decode(content, probe(clip_bytes(5, "vp9")), [0]))


@pytest.mark.parametrize(("limit", "value"), [("MOST_FPS", 9.0), ("MOST_SECONDS", 0.45), ("MOST_FRAMES", 4)])
def test_more_than_the_limits_is_refused(monkeypatch: pytest.MonkeyPatch, limit: str, value: float) -> None:
    from vidtron.data.building import probe as module

    monkeypatch.setattr(module, limit, value)
    with pytest.raises(UndecodableError, match=r"accepted: at most|more than 4 frames"):
        probe(clip_bytes(5, "vp9", fps=10))

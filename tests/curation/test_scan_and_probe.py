import pytest

from tests.curation.clips import encoded, still, texture, write
from tests.curation.steps import rows_of, table_of
from tests.data.clip_files import clip_bytes, damaged, rotated
from vidtron.curation.probing import Probe
from vidtron.curation.scan import scan
from vidtron.curation.table import CurationError


def test_scan_names_files_below_the_folder(tmp_path):
    from PIL import Image

    write(tmp_path, {"b/x.MP4": b"1", "a.mp4": b"2", "a.webm": b"3", "notes.txt": b"4"})
    Image.fromarray(texture(0)).save(tmp_path / "picture.png")
    table = scan(tmp_path, images=False)
    assert table["path"].to_pylist() == [str(tmp_path / name) for name in ("a.mp4", "a.webm", "b/x.MP4")]
    assert table["name"].to_pylist() == ["a.mp4", "a.webm", "b/x"]
    assert scan(tmp_path, images=True)["name"].to_pylist()[-1] == "picture"


def test_scan_says_what_is_accepted(tmp_path):
    with pytest.raises(CurationError, match=r"nothing in it; accepted: .*\.mp4"):
        scan(tmp_path, images=False)
    with pytest.raises(CurationError, match="no such folder"):
        scan(tmp_path / "none", images=False)


@pytest.mark.parametrize("decode", [False, True])
def test_probe(tmp_path, decode):
    from PIL import Image

    upright = rotated(clip_bytes(8, height=48, width=72), 90)
    write(tmp_path / "raw", {"a.mp4": encoded(still(1, 15)), "b.mp4": upright, "c.mp4": b"no video", "d.mkv": b""})
    Image.fromarray(texture(0)).save(tmp_path / "raw" / "e.png")
    a, b, c, d, e = rows_of(Probe(decode=decode), table_of(tmp_path / "raw", tmp_path / "0.parquet"))
    assert a["error"] is None
    assert (a["num_frames"], a["height"], a["width"], a["fps"], a["codec"]) == (15, 96, 128, 10.0, "h264")
    assert a["duration"] == pytest.approx(1.5) and a["aspect_ratio"] == 0.75
    assert (b["height"], b["width"], b["aspect_ratio"]) == (72, 48, 1.5)
    assert c["error"].startswith("probe: Invalid data") and c["num_frames"] is None
    assert d["error"].startswith("probe: ")
    assert (e["num_frames"], e["height"], e["duration"], e["error"]) == (1, 96, 0.0, None)


def test_only_decoding_finds_damaged_pictures(tmp_path):
    write(tmp_path / "raw", {"a.mp4": damaged(clip_bytes(20, codec="vp9"))})
    source = table_of(tmp_path / "raw", tmp_path / "0.parquet")
    (row,) = rows_of(Probe(decode=True), source)
    assert row["error"].startswith("probe: ") and row["num_frames"] is None

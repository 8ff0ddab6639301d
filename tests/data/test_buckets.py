from pathlib import Path

import pytest

from vidtron.config.data import ClipSize, DataConfig
from vidtron.data.fit import ClipFit
from vidtron.data.planning.buckets import BucketError, parse_buckets, read_buckets, resolutions, single_bucket

FIT = ClipFit(
    rounded_size=lambda height, width: (max(1, round(height / 16)) * 16, max(1, round(width / 16)) * 16),
    nearest_frames=lambda frames: (
        (frames,) if frames % 4 == 1 else ((frames - 1) // 4 * 4 + 1, (frames - 1) // 4 * 4 + 5)
    ),
    tokens=lambda size: (size.num_frames + 3) // 4 * size.height * size.width // 256,
    flops=lambda size: 1.0 * size.num_frames * size.height * size.width,
    errors=lambda size: ["too wide"] if size.width > 1100 else [],
)


def errors_of(content: object) -> list[str]:
    with pytest.raises(BucketError) as caught:
        parse_buckets(content, FIT)
    return caught.value.errors


def read(tmp_path: Path, text: str, **data: object) -> dict[str, int | None]:
    """Batch sizes by bucket."""
    path = tmp_path / "buckets.yaml"
    path.write_text(text)
    table = read_buckets(DataConfig(bucket_config=path, **data), FIT)  # type: ignore[arg-type]
    return {bucket.name: bucket.batch_size for bucket in table.buckets}


def test_resolutions_and_frames_are_walked_from_the_largest_on() -> None:
    table = parse_buckets({"144p": {1: [1, 4], 17: [0.5, 2]}, 512: {"9": [1.0, 8], "33": [[0.5, 0.25], 1]}}, FIT)
    assert [r.name for r in table.resolutions] == ["512", "144p"]
    assert [c.frames for r in table.resolutions for c in r.candidates] == [33, 9, 17, 1]
    assert [c.number for r in table.resolutions for c in r.candidates] == [0, 1, 2, 3]
    assert table.shapes == len(table.buckets) == 2 * 40 + 2 * 17
    first = table.resolutions[0].candidates[0]
    assert (first.keep, first.keep_frames) == (0.5, 0.25)
    assert table.buckets[0].name == "512-33f-0.25" and table.buckets[0].size == ClipSize(33, 256, 1024)
    assert {b.batch_size for b in table.buckets if b.size.num_frames == 9} == {8}


def test_sizes_are_rounded_and_may_agree() -> None:
    table = parse_buckets({"240p": {17: [1, 2]}, "224x400": {17: [1, 3]}, "230x400": {17: [1, 3]}}, FIT)
    sizes = {bucket.name: bucket.size for bucket in table.buckets}
    assert sizes["240p-17f-0.56"] == ClipSize(17, 240, 432)
    assert sizes["230x400-17f-0.57"] == sizes["224x400-17f-0.56"] == ClipSize(17, 224, 400)
    assert [r.pixels for r in table.resolutions] == [102240, 92000, 89600]


def test_sinks_are_walked_but_are_no_buckets() -> None:
    # 64 frames are no 4k+1, which does not matter here
    table = parse_buckets({"256": {64: [0.0, None], 17: [1.0, 2]}, "1080p": {17: [0, 5]}}, FIT)
    assert [c.first for r in table.resolutions for c in r.candidates] == [None, None, 0]
    assert len(table.buckets) == 40 and table.shapes == 17 + 40 + 40


def test_every_mistake_is_told() -> None:
    found = errors_of(
        {
            "490p": {17: [1, 2]},
            "480x": {17: [1, 2]},
            "720p": {16: [1, 2], 18: [0.5, 2], 0: [1, 2], "x": [1, 2]},
            "240p": {1: [1.5, 2], 5: [1, 0], 9: [1, None], 13: [1], 17: [[0.1, 0.2, 0.3], 2], 21: [True, 2]},
            "144p": {5: [1, 2.5], "5": [1, 2], 1: [[0.5, 0.5], 2]},
            256: {17: [1, 2]},
            "256": {17: [1, 2]},
            "360p": [],
        }
    )
    starts = [error.split(":")[0].split(";")[0] for error in found]
    assert starts[:2] == ["unknown resolution 490p", "unknown resolution 480x"]
    assert "480p" in found[0] and "HEIGHTxWIDTH" in found[1]
    assert "accepted: 13 or 17" in found[2] and "accepted: 17 or 21" in found[3]
    assert starts[4:6] == ["720p, 0 frames", "720p, x frames"]
    assert starts[6:12] == [f"240p, {frames} frames" for frames in (1, 5, 9, 13, 17, 21)]
    assert starts[12:14] == ["144p, 5 frames", "144p, 1 frames"]
    assert found[14:16] == [
        "resolution 256 stands there twice; accepted: once",
        "360p: []; accepted: {frames: [keep probability, global batch size]}",
    ]
    assert len(found) == 16


def test_sizes_that_the_model_refuses_are_named() -> None:
    found = errors_of({"720p": {17: [1, 2]}, "144p": {17: [1, 2]}})
    assert found[0] == "bucket 720p-17f-0.38: too wide" and len(found) == 10
    assert errors_of({"144p": {17: [0, None]}}) == ["no bucket keeps any clip; accepted: a keep probability above 0"]


@pytest.mark.parametrize("content", [None, [], "x", {}])
def test_what_is_no_configuration(content: object) -> None:
    assert "accepted: {resolution:" in errors_of(content)[0]


def test_files(tmp_path: Path) -> None:
    assert read(tmp_path, "240x320: {17: [1, 3]}") == {"240x320-17f-0.75": 3}
    with pytest.raises(BucketError, match=r"--bucket-config \S+buckets.yaml: not YAML"):
        read(tmp_path, "a: [")
    with pytest.raises(BucketError, match=r"--bucket-config \S+buckets.yaml: unknown resolution a;"):
        read(tmp_path, "a: {1: [1, 1]}")
    with pytest.raises(BucketError, match="No such file"):
        read_buckets(DataConfig(bucket_config=tmp_path / "none.yaml"), FIT)


TEXT = "160x160: {1: [1, 4], 17: [1, 9]}\n320x320: {17: [1, 6], 33: [0.5, 2], 65: [0.0, null]}"


def test_batches_of_equal_tokens(tmp_path: Path) -> None:
    # tokens of a clip: 100, 5 x 100, 5 x 400, 9 x 400
    sizes = read(tmp_path, TEXT, bucket_batch="tokens", global_batch_tokens=8000)
    assert sizes == {"320x320-33f-1.00": 2, "320x320-17f-1.00": 4, "160x160-17f-1.00": 16, "160x160-1f-1.00": 80}
    sizes = read(tmp_path, TEXT, bucket_batch="tokens", global_batch_tokens=8000, bucket_batch_multiple=3)
    assert list(sizes.values()) == [3, 3, 15, 78]


def test_batches_of_equal_compute(tmp_path: Path) -> None:
    # 2 clips of 33 frames of 320x320 have 66 x 4 x 160 x 160 pixels
    sizes = read(tmp_path, TEXT, bucket_batch="compute")
    assert list(sizes.values()) == [2, 66 // 17, 66 * 4 // 17, 66 * 4]
    sizes = read(tmp_path, TEXT, bucket_batch="compute", bucket_batch_multiple=4)
    assert list(sizes.values()) == [2, 4, 12, 264]


def test_without_buckets_there_is_one() -> None:
    (bucket,) = single_bucket(ClipSize(49, 480, 720)).buckets
    assert (bucket.name, bucket.size, bucket.batch_size) == ("480x720-49f", (49, 480, 720), None)


def test_named_resolutions_have_about_their_pixels() -> None:
    for resolution in resolutions().values():
        for ratio, (height, width) in resolution.ratios.items():
            assert abs(height / width - float(ratio)) < 0.03 * float(ratio)
            assert abs(height * width / resolution.pixels - 1) < 0.1

from pathlib import Path

import pytest

from tests.data.clip_files import build_shards, clip_bytes
from vidtron.config.data import DataConfig
from vidtron.config.run import RunConfig
from vidtron.config.world import World
from vidtron.data import check
from vidtron.data.fit import ClipFit

FIT = ClipFit(
    rounded_size=lambda height, width: (max(1, round(height / 8)) * 8, max(1, round(width / 8)) * 8),
    nearest_frames=lambda frames: (frames,),
    tokens=lambda size: size.num_frames * size.height * size.width // 64,
    flops=lambda size: 1.0 * size.num_frames * size.height * size.width,
    errors=lambda size: [],
)
WORLD = World(size=1, rank=0, local_rank=0, has_cuda=False, packages=frozenset({"nvidia.dali"}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    clips = {"a": clip_bytes(12, "vp9"), "b": clip_bytes(9, "h264"), "c": clip_bytes(9, "h264")}
    return str(build_shards(tmp_path_factory.mktemp("checks"), clips).folders[0])


def errors(folder: str | None, world: World = WORLD, valid: str | None = None, **data: object) -> list[str]:
    settings = {"num_frames": 9, "height": 48, "width": 72, **data}
    paths = {"data_path": [folder] if folder else [], "valid_data_path": [valid] if valid else []}
    return check(RunConfig("test", None, data=DataConfig(**paths, **settings)), world, FIT)  # type: ignore[arg-type]


def test_a_good_configuration(folder: str) -> None:
    assert errors(folder, valid=folder) == []


def test_paths(folder: str, tmp_path: Path) -> None:
    assert [e.split(":")[0] for e in errors(None)] == ["--data-path"]
    missing = errors(str(tmp_path / "no"), valid=str(tmp_path))
    assert [e.split()[0] for e in missing] == ["--data-path", "--valid-data-path"]
    assert all("build_shards.py" in e for e in missing)


def test_numbers_are_all_told_at_once(folder: str) -> None:
    found = errors(folder, num_frames=0, height=0, width=-3, fps=0.0, num_workers=-1, prefetch_samples=-2)
    flags = ["--num-frames", "--height", "--width", "--fps", "--num-workers", "--prefetch-samples"]
    assert [e.split()[0] for e in found] == flags
    assert all("accepted" in e for e in found)


def test_sats_rule(folder: str) -> None:
    assert errors(folder, clip_window="sat", fps=8.0) == []
    assert errors(folder, clip_window="sat", short_clip="loop") == [
        "--clip-window sat: needs a rate; accepted: with --fps, 8 for CogVideoX and 16 for CogVideoX 1.5",
        "--short-clip loop with --clip-window sat, whose short clips are padded: accepted: pad",
    ]
    (of_buckets,) = errors(folder, clip_window="sat", fps=8.0, bucket_config=Path("b.yaml"), num_frames=9)
    assert of_buckets.startswith("--bucket-config b.yaml with --clip-window sat")
    (too_fast,) = errors(folder, clip_window="sat", fps=1000.0)
    assert too_fast.endswith("accepted with another --fps, or --clip-window random")


def test_clips_too_short(folder: str) -> None:
    assert errors(folder, num_frames=13, short_clip="pad") == []
    assert errors(folder, num_frames=12, short_clip="skip") == []
    (error,) = errors(folder, num_frames=13, short_clip="skip")
    assert error.startswith("--data-path: none of the 3 clips") and "--short-clip" in error


def test_dali(folder: str) -> None:
    (error,) = errors(folder, decoder="dali")
    assert "h264 (2 clips)" in error and "accepted: mjpeg, vp8, vp9" in error and "vp9 (1" not in error
    on_gpu = World(size=1, rank=0, local_rank=0, has_cuda=True, packages=frozenset({"nvidia.dali"}))
    assert errors(folder, on_gpu, decoder="dali") == []
    bare = World(size=1, rank=0, local_rank=0, has_cuda=False, packages=frozenset())
    assert any("DALI is not installed" in e for e in errors(folder, bare, decoder="dali"))
    assert errors(folder, bare, decoder="auto") == []

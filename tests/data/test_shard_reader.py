import io
import json
import os
import pickle
import shutil
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import fsspec
import pytest

from tests.data.clip_files import build_shards, clip_bytes
from vidtron.data.shards import shard_reader
from vidtron.data.shards.index import INDEX_NAME, DamagedSampleError, Sample, ShardError, ShardIndex
from vidtron.data.shards.shard_cache import ShardCache


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Nobody sleeps; what would have been slept."""
    slept: list[float] = []
    monkeypatch.setattr(shard_reader.time, "sleep", slept.append)
    return slept


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    clips = {name: clip_bytes(5, "mjpeg", tint=i) for i, name in enumerate("abc")}
    build_shards(folder, clips, samples_per_shard=2)
    return folder / "shards"


@pytest.fixture(params=["local", "remote"])
def folder(request: pytest.FixtureRequest, built: Path, tmp_path: Path) -> Path:
    """A copy of the shards; `opened` opens it as a folder, or as a store."""
    return Path(shutil.copytree(built, tmp_path / request.param))


def opened(folder: Path) -> ShardIndex:
    url = f"file://{folder}" if folder.name == "remote" else folder
    return ShardIndex.open([url], ShardCache(folder.parent / "cache"))


def failing(times: int, original: Callable[..., object] = os.pread) -> Callable[..., object]:
    left = [times]

    def call(*arguments: object) -> object:
        if left[0]:
            left[0] -= 1
            raise OSError(5, "Input/output error")
        return original(*arguments)

    return call


def test_samples_are_read(folder: Path) -> None:
    for sample in opened(folder):
        assert sample.caption() == f"caption of {sample.key}"
        assert json.loads(sample.read("json"))["frames"] == 5
    again = pickle.loads(pickle.dumps(sample))
    assert again.read("mp4") == sample.read("mp4") == clip_bytes(5, "mjpeg", tint=2)


@pytest.mark.parametrize("times", [1, 3])
def test_errors_that_pass_are_retried(
    folder: Path, monkeypatch: pytest.MonkeyPatch, pauses: list[float], times: int
) -> None:
    index = opened(folder)
    monkeypatch.setattr(shard_reader.os, "pread", failing(times))
    assert index[0].caption() == "caption of a"
    assert pauses == [0.1, 0.4, 1.6][:times]


def test_errors_that_stay_stop_the_run(folder: Path, monkeypatch: pytest.MonkeyPatch, pauses: list[float]) -> None:
    index = opened(folder)
    monkeypatch.setattr(shard_reader.os, "pread", failing(99))
    with pytest.raises(ShardError, match=r"shard-000000\.tar: cannot be read, tried 4 times \(.*Input/output error"):
        index[0].caption()
    assert pauses == [0.1, 0.4, 1.6]


def test_a_shard_that_shrinks_damages_the_samples_behind_its_end(built: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(built, tmp_path / "local"))
    index = opened(folder)
    first, second = index[0], index[1]
    end = second.members["mp4"][0] + 100
    Path(first.shard).write_bytes(Path(first.shard).read_bytes()[:end])
    assert first.read("mp4") == clip_bytes(5, "mjpeg") and first.caption() == "caption of a"
    with pytest.raises(DamagedSampleError, match=r"sample b of .*shard-000000\.tar cannot be read: .*ends inside it"):
        second.read("mp4")


def test_a_remote_shard_of_another_size_damages_its_samples(built: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(built, tmp_path / "remote"))
    index = opened(folder)
    shard = folder / "shard-000000.tar"
    size = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[:-512])
    with pytest.raises(DamagedSampleError, match=f"has {size - 512} bytes where the index says {size}"):
        index[0].read("mp4")
    assert index[2].caption() == "caption of c"


def test_a_shard_that_is_gone_damages_its_samples(folder: Path, pauses: list[float]) -> None:
    index = opened(folder)
    (folder / "shard-000000.tar").unlink()
    with pytest.raises(DamagedSampleError, match=r"sample b of .* the shard is gone") as caught:
        index[1].caption()
    assert (caught.value.key, caught.value.reason) == ("b", "the shard is gone")
    assert str(caught.value.shard) == str(index[1].shard)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert pauses == []
    assert index[2].caption() == "caption of c"


def test_a_folder_that_is_gone_stops_the_run(folder: Path, pauses: list[float]) -> None:
    index = opened(folder)
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(ShardError, match=r"shard-000000\.tar: cannot be read, tried 4 times"):
        index[0].caption()
    assert len(pauses) == 3


def test_captions_that_are_no_captions(folder: Path) -> None:
    sample = opened(folder)[0]
    shard = folder / "shard-000000.tar"
    content = bytearray(shard.read_bytes())
    content[sample.members["txt"][0]] = 0xFF
    shard.write_bytes(content)
    with pytest.raises(DamagedSampleError, match=r"sample a of .*its caption is no UTF-8"):
        sample.caption()
    without = Sample("a", sample.shard, {}, sample.clip, 0, folder=sample.folder)
    with pytest.raises(DamagedSampleError, match=r"it has no \.txt"):
        without.caption()


def test_memory_is_a_store_too(built: Path, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(built), "/bucket/shards", recursive=True)
    cache = ShardCache(tmp_path)
    index = ShardIndex.open(["memory://bucket/shards/"], cache)
    assert index.fingerprint == ShardIndex.open([built]).fingerprint
    assert index[1].shard == "memory://bucket/shards/shard-000000.tar"
    assert index[1].caption() == "caption of b"
    memory.rm("/bucket", recursive=True)
    assert index[0].caption() == "caption of a"  # from the copy
    with pytest.raises(ShardError, match="cannot be read, tried 4 times"):
        index[2].caption()
    with pytest.raises(ShardError, match=rf"memory://bucket/shards/{INDEX_NAME}: there is none; accepted: the output"):
        ShardIndex.open(["memory://bucket/shards"], cache)


def test_new_content_of_a_store_is_seen(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    cache = ShardCache(tmp_path / "cache")
    prints = set()
    for names in ("ab", "cd"):
        index = build_shards(tmp_path / names, {name: clip_bytes(5, "mjpeg") for name in names})
        memory.put(str(tmp_path / names / "shards"), "/again", recursive=True)
        opened_now = ShardIndex.open(["memory://again"], cache)
        assert opened_now.fingerprint == index.fingerprint
        assert [sample.caption() for sample in opened_now] == [f"caption of {name}" for name in names]
        prints.add(opened_now.fingerprint)
        memory.rm("/again", recursive=True)
    assert len(prints) == 2


def test_a_web_server_is_a_store(built: Path, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed: fsspec opens no http://")
    handler = partial(SimpleHTTPRequestHandler, directory=str(built))  # it knows no ranges, so all is streamed
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        index = ShardIndex.open([url], ShardCache(tmp_path / "cache"))
        assert [sample.caption() for sample in index] == [f"caption of {name}" for name in "abc"]
        assert index[1].read("mp4") == clip_bytes(5, "mjpeg", tint=1)
        with pytest.raises(ShardError, match=r"nowhere/index\.arrow: there is none"):
            ShardIndex.open([f"{url}/nowhere"], ShardCache(tmp_path / "cache"))
        server.shutdown()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://bucket/x", "s3fs"),
        ("gs://bucket/x", "gcsfs"),
        ("https://example.invalid/x", "aiohttp"),
        ("carrier-pigeon://x", "fsspec opens no carrier-pigeon://"),
    ],
)
def test_missing_packages_are_named(tmp_path: Path, url: str, message: str) -> None:
    if message in ("s3fs", "gcsfs", "aiohttp"):
        try:
            __import__(message)
        except ImportError:
            message = f"needs a package .*; accepted: `pip install {message}`"
        else:
            pytest.skip(f"{message} is installed")
    with pytest.raises(ShardError, match=message):
        ShardIndex.open([url], ShardCache(tmp_path))


def test_a_whole_run_of_reads_is_told_apart_from_an_end() -> None:
    with io.FileIO(shard_reader.__file__) as file:
        whole = Path(shard_reader.__file__).read_bytes()
        assert shard_reader.read_at(file.fileno(), 10, 20) == whole[10:30]
        assert shard_reader.read_at(file.fileno(), len(whole) - 5, 20) == whole[-5:]

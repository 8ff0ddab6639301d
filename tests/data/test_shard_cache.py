import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest

from vidtron.data.errors import ShardError
from vidtron.data.shards import remote, shard_cache
from vidtron.data.shards.shard_cache import ShardCache

STATE = "as it is"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Five files of 1000 bytes each."""
    folder = tmp_path / "store"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.tar").write_bytes(bytes([number]) * 1000)
    return folder


def url(store: Path, number: int) -> str:
    return f"file://{store}/{number}.tar"


def read(cache: ShardCache, store: Path, number: int) -> bytes:
    with cache.opened(url(store, number), 1000, STATE) as file:
        return file.read(1)


def copies(cache: ShardCache) -> set[int]:
    """Which files there are copies of."""
    return {path.read_bytes()[0] for path in cache.path.iterdir() if path.suffix == ".1000"}


def copied(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The URLs that will be copied."""
    urls: list[str] = []
    copy = remote.copy

    def counting(source: str, target: Path) -> None:
        urls.append(source)
        copy(source, target)

    monkeypatch.setattr(shard_cache.remote, "copy", counting)
    return urls


def test_a_file_is_copied_once(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    urls = copied(monkeypatch)
    cache = ShardCache(tmp_path / "cache")
    assert [read(cache, store, number) for number in (1, 1, 0, 1)] == [b"\1", b"\1", b"\0", b"\1"]
    assert urls == [url(store, 1), url(store, 0)]
    with cache.opened(url(store, 1), 1000, "changed") as file:
        assert file.read() == b"\1" * 1000
    assert len(urls) == 3


def test_the_copies_used_longest_ago_make_room(store: Path, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache", limit_bytes=3000)
    for number in (0, 1, 2, 0, 3):
        read(cache, store, number)
        time.sleep(0.01)  # times of files are coarse
    assert copies(cache) == {0, 2, 3}
    read(cache, store, 4)
    assert copies(cache) == {0, 3, 4}


def test_a_file_that_is_read_is_not_removed(store: Path, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache", limit_bytes=1000)
    with cache.opened(url(store, 0), 1000, STATE) as file:
        read(cache, store, 1)
        assert copies(cache) == {0, 1}  # over the limit by what is being read
        assert file.read() == bytes(1000)
    read(cache, store, 2)
    assert copies(cache) == {2}


def test_a_file_larger_than_the_cache_names_the_flag(store: Path, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"--data-cache-gib .*: a file of 1000 bytes is larger than the cache"):
        read(ShardCache(tmp_path / "cache", limit_bytes=999), store, 0)


def test_a_copy_that_breaks_off_is_none(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ShardCache(tmp_path / "cache")
    with monkeypatch.context() as patched:
        patched.setattr(shard_cache.remote, "copy", lambda _, target: target.write_bytes(b"half"))
        with pytest.raises(OSError, match="only 4 of 1000 bytes came"):
            read(cache, store, 0)
    assert [path for path in cache.path.iterdir() if path.suffix != ".lock"] == []
    assert read(cache, store, 0) == b"\0"


def test_other_sizes_are_refused(store: Path, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache")
    with pytest.raises(remote.OtherSizeError, match="has 1000 bytes where the index says 1001"):
        cache.acquire(url(store, 0), 1001, STATE)
    with pytest.raises(remote.MissingFileError, match="no such file"):
        read(cache, store, 9)


def test_what_a_killed_process_left_makes_room_first(store: Path, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache", limit_bytes=2000)
    read(cache, store, 0)
    left = cache.path / f"{'f' * 32}.1000.part"
    left.write_bytes(b"left")
    os.utime(left, (0, 0))
    read(cache, store, 1)
    assert copies(cache) == {0, 1} and not left.exists()


def _copy_slowly(source: str, target: Path) -> None:
    with (target.parent.parent / "log").open("a") as log:
        log.write(f"{source}\n")
    time.sleep(0.2)
    target.write_bytes(Path(source.removeprefix("file://")).read_bytes())


def _read_many(cache: ShardCache, store: Path, barrier: Any, results: Any) -> None:
    shard_cache.remote.copy = _copy_slowly  # type: ignore[assignment]
    barrier.wait()
    results.put([read(cache, store, number) for number in (0, 1, 2)])


def test_two_processes_copy_once(store: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(2), context.Queue()
    cache = ShardCache(tmp_path / "cache")
    processes = [context.Process(target=_read_many, args=(cache, store, barrier, results)) for _ in range(2)]
    for process in processes:
        process.start()
    assert [results.get(timeout=300) for _ in processes] == [[b"\0", b"\1", b"\2"]] * 2
    for process in processes:
        process.join(timeout=300)
    assert sorted((tmp_path / "log").read_text().split()) == [url(store, number) for number in range(3)]


def _read_around(cache: ShardCache, store: Path, seed: int, results: Any) -> None:
    numbers = [(seed * 3 + i * i) % 5 for i in range(60)]
    results.put([read(cache, store, number) == bytes([number]) for number in numbers])


def test_processes_that_drive_out_each_others_copies_read_what_is_right(store: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    cache = ShardCache(tmp_path / "cache", limit_bytes=2000)
    processes = [context.Process(target=_read_around, args=(cache, store, seed, results)) for seed in range(3)]
    for process in processes:
        process.start()
    assert all(all(results.get(timeout=300)) for _ in processes)
    for process in processes:
        process.join(timeout=300)
    read(cache, store, 0)
    assert len(copies(cache)) <= 2

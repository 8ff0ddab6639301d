"""The folder of cached latents: what is written is read again, torn ends are not believed, others are refused."""

import dataclasses
import errno
import json
import os
import tarfile
import zlib
from pathlib import Path

import pytest
import torch

from vidtron.data.latents import store as store_module
from vidtron.data.latents.header import LatentCacheError
from vidtron.data.latents.parts import Content, PartWriter
from vidtron.data.latents.store import LatentStore
from vidtron.data.latents.table import EntryTable

SIZE, OTHER = (9, 32, 48), (1, 64, 64)
TERMS = {"--vae-path": "transform-v1", "--scale-factor": "1.0"}


def opened(folder: Path, **terms: str) -> LatentStore:
    return LatentStore(folder, {**TERMS, **terms}, [SIZE, OTHER])


def tensors_of(row: int, size=SIZE) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(100 * row + size[0])
    return {
        "mean": torch.randn(16, 3, 4, 6, generator=generator),
        "text": torch.randn(row % 3, 8, generator=generator).bfloat16(),
        "first_frame": torch.randint(0, 256, (3, 5, 7), generator=generator, dtype=torch.uint8),
    }


def content_of(row: int, size=SIZE) -> Content:
    return Content(f"clip/{row}", tuple(range(row, row + 9)), tensors_of(row, size))


def put(store: LatentStore, *rows: int, size=SIZE) -> None:
    for row in rows:
        store.put(row, size, content_of(row, size))


def got(store: LatentStore, row: int, size=SIZE) -> dict[str, torch.Tensor] | None:
    return store.get(row, f"clip/{row}", size, range(row, row + 9))


def holds(store: LatentStore, row: int, size=SIZE) -> bool:
    found, expected = got(store, row, size), tensors_of(row, size)
    if found is None:
        return False
    assert set(found) == set(expected)
    assert all(found[name].dtype == expected[name].dtype for name in expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    return True


def test_entries_come_back_in_this_process_and_the_next(tmp_path: Path) -> None:
    store = opened(tmp_path / "cache")
    put(store, 5, 3)
    put(store, 3, size=OTHER)
    assert got(store, 4) is None and got(store, 5, OTHER) is None
    for reader in (store, opened(tmp_path / "cache")):
        assert len(reader) == 3
        assert holds(reader, 5) and holds(reader, 3) and holds(reader, 3, OTHER)


def test_an_entry_is_written_once(tmp_path: Path) -> None:
    store = opened(tmp_path)
    put(store, 1)
    (part,) = tmp_path.glob("*.tar")
    size = part.stat().st_size
    put(store, 1)
    again = opened(tmp_path)
    put(again, 1)
    assert [path.name for path in tmp_path.glob("*.tar")] == ["part-000000.tar"]
    assert part.stat().st_size == size > 0
    put(store, 2)
    assert part.stat().st_size > size


def test_writers_see_what_others_have_written_since(tmp_path: Path) -> None:
    first, second = opened(tmp_path), opened(tmp_path)
    put(first, 1)
    put(second, 2)
    first._look_at = second._look_at = 0.0  # the time between two looks has passed
    assert holds(first, 2) and holds(second, 1)
    put(second, 3)
    assert got(first, 3) is None  # not looked again so soon
    first._look_at = 0.0
    assert holds(first, 3) and holds(first, 1)
    assert sorted(path.name for path in tmp_path.glob("part*.tar")) == ["part-000000.tar", "part-000001.tar"]


def test_a_closed_part_is_a_webdataset_tar(tmp_path: Path) -> None:
    from safetensors.torch import load

    store = opened(tmp_path)
    long_key = "folder/" + 150 * "x"
    store.put(0, SIZE, dataclasses.replace(content_of(0), key=long_key))
    put(store, 1)
    store.close()
    with tarfile.open(tmp_path / "part-000000.tar") as tar:
        assert tar.getnames() == [f"{long_key}.safetensors", "clip/1.safetensors"]
        member = tar.extractfile("clip/1.safetensors")
        assert member is not None
        assert torch.equal(load(member.read())["mean"], tensors_of(1)["mean"])
    first, second = map(json.loads, (tmp_path / "part-000000.entries.jsonl").read_text().splitlines())
    assert (first["key"], first["row"], first["size"], first["frames"]) == (long_key, 0, list(SIZE), list(range(9)))
    content = (tmp_path / "part-000000.tar").read_bytes()[second["offset"] :][: second["bytes"]]
    assert zlib.crc32(content) == second["crc32"]


def test_long_parts_are_followed_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "PART_BYTES", 10_000)
    store = opened(tmp_path)
    put(store, *range(5))
    store.close()
    assert len(list(tmp_path.glob("part-*.tar"))) > 1
    assert all(holds(opened(tmp_path), row) for row in range(5))


@pytest.mark.parametrize("cut", [1, 40])
def test_a_torn_line_of_the_journal_is_not_believed(tmp_path: Path, cut: int) -> None:
    put(opened(tmp_path), 1, 2)
    journal = tmp_path / "part-000000.entries.jsonl"
    os.truncate(journal, journal.stat().st_size - cut)
    store = opened(tmp_path)
    assert len(store) == 1 and holds(store, 1) and got(store, 2) is None
    put(store, 2)
    assert holds(opened(tmp_path), 2)


@pytest.mark.parametrize("damage", ["cut short", "zeros", "gone"])
def test_damaged_content_is_not_believed_and_written_anew(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    put(opened(tmp_path), 1, 2)
    tar = tmp_path / "part-000000.tar"
    if damage == "cut short":
        os.truncate(tar, tar.stat().st_size - 2000)
    elif damage == "zeros":
        content = tar.read_bytes()
        tar.write_bytes(content[:-2000] + bytes(2000))
    else:
        tar.unlink()
    store = opened(tmp_path)
    assert got(store, 2) is None
    assert store.damaged == (2 if damage == "gone" else 1)
    told = "sample clip/2 is damaged or gone" if damage == "zeros" else f"{store.damaged} entries are damaged or gone"
    assert told in caplog.text
    put(store, 2)
    store.close()
    assert holds(store, 2) and holds(opened(tmp_path), 2)
    assert (got(store, 1) is None) == (damage == "gone")


def test_damaged_lines_are_passed_over(tmp_path: Path) -> None:
    store = opened(tmp_path)
    put(store, 1)
    with (tmp_path / "part-000000.entries.jsonl").open("ab") as file:
        file.write(b'\0\0\0\n{"row": 7}\n')
    assert len(opened(tmp_path)) == 1


def test_a_full_disk_is_told_and_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(tmp_path)
    put(store, 1)
    room, written = 3000, os.pwrite

    def almost_full(file: int, content: memoryview, offset: int) -> int:
        if len(content) > room:
            return written(file, content[:room], offset)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", almost_full)
        with pytest.raises(LatentCacheError, match=r"--latent-cache .*part-000000.tar .* \(No space left on device\)"):
            put(store, 2)
    put(store, 3)  # somebody has made room
    store.close()
    with tarfile.open(tmp_path / "part-000000.tar") as tar:
        assert tar.getnames() == ["clip/1.safetensors", "clip/3.safetensors"]
    reader = opened(tmp_path)
    assert holds(reader, 1) and holds(reader, 3) and got(reader, 2) is None


def test_caches_made_otherwise_are_refused_by_name(tmp_path: Path) -> None:
    opened(tmp_path)
    with pytest.raises(LatentCacheError) as caught:
        opened(tmp_path, **{"--scale-factor": "0.7", "--num-frames": "17"})
    assert [error.partition("another ")[2].split(";")[0] for error in caught.value.errors] == [
        "--scale-factor: 1.0",
        "--num-frames: None",
    ]
    assert all("this run has" in error and "accepted: the same" in error for error in caught.value.errors)


def test_of_long_lists_the_difference_is_told(tmp_path: Path) -> None:
    sizes = [f"17 x {16 * number} x 256" for number in range(1, 30)]
    opened(tmp_path, sizes=", ".join(sizes))
    with pytest.raises(LatentCacheError) as caught:
        opened(tmp_path, sizes=", ".join([*sizes[6:], "1 x 8 x 8"]))
    (error,) = caught.value.errors
    assert "sizes: 29 of them, 17 x 16 x 256, 17 x 32 x 256" in error and "and 1 more not in this run" in error
    assert "this run has 24, 1 x 8 x 8 not there; accepted: the same" in error


def test_file_systems_without_links_hold_caches_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(source: str, target: Path) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_links)
    put(opened(tmp_path), 1)
    assert holds(opened(tmp_path), 1)
    assert not list(tmp_path.glob(".*"))


def test_folders_of_other_things_are_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("")
    with pytest.raises(LatentCacheError, match="holds other files"):
        opened(tmp_path)
    (tmp_path / "cache.json").write_text('{"format": "another"}')
    with pytest.raises(LatentCacheError, match="is not that of a latent cache"):
        opened(tmp_path)
    (tmp_path / "cache.json").write_text('{"format": "vidtron-latents", "version": 99}')
    with pytest.raises(LatentCacheError, match="has format version 99; accepted: 1"):
        opened(tmp_path)
    with pytest.raises(LatentCacheError, match="cannot be used"):
        opened(tmp_path / "photo.jpg")


def test_other_frames_of_a_sample_are_encoded_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = opened(tmp_path)
    put(store, 2)
    assert store.get(2, "clip/2", SIZE, [0, 1]) is None
    assert "shows frames 2 3 4 5 6 7 8 9 10 of sample clip/2, this run frames 0 1 of clip/2" in caplog.text
    assert (2, SIZE) not in store._table


def test_parts_take_their_names_when_they_are_finished(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for attempt in range(2):  # the first one is killed
        writer = PartWriter(tmp_path, ".shard-000007", replace=True)
        writer.append(4, SIZE, Content("clip/4", (1,), {}))
        store._look_at = 0.0
        assert got(store, 4) is None
        if attempt:
            writer.close()
            writer.rename("shard-000007")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["cache.json", "shard-000007.entries.jsonl", "shard-000007.tar"]
    assert len(opened(tmp_path)) == 1


def test_the_table_is_one_of_arrays_and_of_what_came_last(monkeypatch: pytest.MonkeyPatch) -> None:
    from vidtron.data.latents import table as latent_table
    from vidtron.data.latents.parts import Entry

    monkeypatch.setattr(latent_table, "_MERGE", 7)
    table, expected = EntryTable([SIZE, SIZE, OTHER]), {}
    for number in range(100):
        row, size = number * 37 % 23, (SIZE, OTHER)[number % 2]
        if number % 9 == 8:
            table.remove(row, size)
            expected[row, size] = None
        else:
            entry = Entry(row, size, number, number + 1, 2**32 - 1 - number)
            table.put(number, [entry])
            expected[row, size] = (number, entry)
        assert all(table.get(*key) == place for key, place in expected.items())
    assert len(table) == sum(place is not None for place in expected.values())
    table.put(0, [Entry(1, (5, 5, 5), 0, 0, 0)])
    assert (1, (5, 5, 5)) not in table


def test_a_cache_from_before_the_posterior_was_a_choice_holds_drawn_ones(tmp_path: Path) -> None:
    put(opened(tmp_path), 0)
    assert holds(opened(tmp_path, **{"--posterior": "sample"}), 0)
    with pytest.raises(LatentCacheError, match="another --posterior: sample; this run has mean"):
        opened(tmp_path, **{"--posterior": "mean"})

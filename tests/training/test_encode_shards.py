"""Encoding shards ahead of training: what training would have written, whole shards, resumable."""

import json
import tarfile
from pathlib import Path

import pytest
import torch

from tests.shards import write_shards
from tests.training.small import small_run
from tests.training.test_latent_cache import EPOCHS, Count, train
from vidtron.config.world import World
from vidtron.data.latents.parts import PartWriter, read_content, read_journal
from vidtron.data.shards.index import ShardIndex
from vidtron.data.shards.index_writer import IndexWriter
from vidtron.data.shards.sample import IndexRow
from vidtron.training.encode_shards import EncodeResult, Progress, encode_shards, encoding_run, shards_of

CLIPS = (3, 4, 2)


@pytest.fixture(scope="module")
def three_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three shards of 3, 4 and 2 clips."""
    root = tmp_path_factory.mktemp("three")
    folder, sizes = root / "all", {}
    folder.mkdir()
    with IndexWriter(folder) as writer:
        for number, clips in enumerate(CLIPS):
            one = write_shards(root / str(number), clips, first_seed=10 * number, prefix=f"s{number}/")
            name = f"shard_{number:06d}.tar"
            sizes[name] = (one / "shard_000000.tar").rename(folder / name).stat().st_size
            for sample in ShardIndex.open([one], check_shards=False):
                writer.add(IndexRow(name, sample.key, "mp4", sample.members, sample.clip, sample.caption_characters))
        writer.finish(sizes)
    return folder


def encode(rank: int, run, progress: Progress | None = None) -> EncodeResult:
    """Job."""
    world = World.from_environment()
    return encode_shards(encoding_run(run, world), world, progress or Progress())


def contents(cache: Path) -> dict[int, tuple]:
    """Row -> (key, frames, tensors) of all entries."""
    found = {}
    for journal in sorted(cache.glob("*.entries.jsonl")):
        entries, _ = read_journal(journal)
        for entry in entries:
            content = read_content(cache / journal.name.replace(".entries.jsonl", ".tar"), entry)
            assert content is not None and entry.row not in found
            found[entry.row] = content.key, content.frames, content.tensors
    return found


def assert_equal(first: dict[int, tuple], second: dict[int, tuple]) -> None:
    assert first.keys() == second.keys()
    for row, (key, frames, tensors) in first.items():
        other_key, other_frames, other = second[row]
        assert (key, frames, set(tensors)) == (other_key, other_frames, set(other))
        assert all(torch.equal(tensors[name], other[name]) for name in tensors)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("flags", [{}, {"in_channels": 32, "clip_window": "random"}], ids=["T2V", "I2V"])
def test_shards_hold_what_training_would_have_written(pool, three_shards, tmp_path, monkeypatch, ranks, flags) -> None:
    flags = {**EPOCHS, "train_iters": 9, "global_batch_size": 1, **flags}
    expected = train(small_run(three_shards, **flags, latent_cache=tmp_path / "written"))
    cached = small_run(three_shards, **flags, latent_cache=tmp_path / "encoded")
    assert pool.run(encode, ranks, cached) == [EncodeResult(3, 0, 0)] * ranks
    assert_equal(contents(tmp_path / "encoded"), contents(tmp_path / "written"))
    for number, clips in enumerate(CLIPS):
        with tarfile.open(tmp_path / "encoded" / f"shard_{number:06d}.tar") as tar:
            assert tar.getnames() == [f"s{number}/clip{clip:03d}.safetensors" for clip in range(clips)]
    count = Count(monkeypatch)
    assert train(cached).losses == expected.losses
    if not flags.get("in_channels"):
        assert count.since() == (0, 1)
    assert not list((tmp_path / "encoded").glob("part-*"))


def test_finished_shards_are_skipped_and_torn_ones_made_again(three_shards, tmp_path, monkeypatch) -> None:
    run = small_run(three_shards, latent_cache=tmp_path / "cache", clip_window="centre", num_workers=2)
    encode(0, small_run(three_shards, latent_cache=tmp_path / "whole", clip_window="centre"))
    seen: list[str | None] = []

    def stop_in_the_second(problem: str | None) -> None:
        seen.append(problem)
        if len(seen) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode(0, run, Progress(sample=stop_in_the_second))
    names = {path.name for path in (tmp_path / "cache").iterdir()}
    assert names == {"cache.json", "shard_000000.tar", "shard_000000.entries.jsonl"}, "an interrupted one is removed"
    for suffix in ("tar", "entries.jsonl"):  # as SIGKILL leaves it
        torn = (tmp_path / "cache" / f"shard_000000.{suffix}").read_bytes()[:-100]
        (tmp_path / "cache" / f".shard_000001.{suffix}").write_bytes(torn)
    count, told = Count(monkeypatch), []
    again = Progress(begin=told.append, shard=lambda name, samples: told.append((name, samples)))
    assert encode(0, run, again) == EncodeResult(3, 1, 0)
    assert told == [6, ("shard_000001", 4), ("shard_000002", 2)]
    assert count.since()[0] == 6
    assert_equal(contents(tmp_path / "cache"), contents(tmp_path / "whole"))
    assert encode(0, run) == EncodeResult(3, 3, 0) and count.since()[0] == 0
    assert not [path.name for path in (tmp_path / "cache").glob(".*")]


def test_what_training_has_written_is_taken_over(three_shards, tmp_path, monkeypatch) -> None:
    flags = {"latent_cache": tmp_path, "clip_window": "centre", "global_batch_size": 1, "encode_ahead": 0}
    train(small_run(three_shards, train_iters=4, **flags))
    count = Count(monkeypatch)
    encode(0, small_run(three_shards, **flags))
    assert count.since()[0] == 9 - 4


def test_bad_clips_are_named(tmp_path) -> None:
    folder = write_shards(tmp_path / "broken", clips=3)
    content = bytearray((folder / "shard_000000.tar").read_bytes())
    content[512:1500] = bytes(988)
    (folder / "shard_000000.tar").write_bytes(content)
    run, problems = small_run(folder, latent_cache=tmp_path / "cache"), []
    for before in (0, 1):
        assert encode(0, run, Progress(sample=problems.append)) == EncodeResult(1, before, 1)
    assert len(problems) == 3 and problems[0].startswith("clip000: ") and problems[1:] == [None, None]
    (line,) = map(json.loads, (tmp_path / "cache" / "skipped.jsonl").open())
    assert (line["row"], line["key"]) == (0, "clip000") and line["shard"].endswith("shard_000000.tar")
    assert sorted(contents(tmp_path / "cache")) == [1, 2]
    train(small_run(folder, latent_cache=tmp_path / "cache", train_iters=1))


def test_folders_that_are_blended_are_encoded_whole(shards, three_shards, tmp_path) -> None:
    paths = ["0.9", str(shards), "0.1", str(three_shards)]
    encode(0, small_run("", data_path=paths, latent_cache=tmp_path))
    assert sorted(path.name for path in tmp_path.glob("*.tar")) == [
        "0-shard_000000.tar",
        *(f"1-shard_00000{number}.tar" for number in range(3)),
    ]
    assert sorted(contents(tmp_path)) == list(range(8 + 9))
    index = ShardIndex.open([str(shards), str(three_shards)])
    assert [len(shard.rows) for shard in shards_of(index)] == [8, *CLIPS]


def test_buckets_of_the_first_epoch(three_shards, tmp_path, monkeypatch) -> None:
    path = tmp_path / "buckets.yaml"
    path.write_text('"64x96":\n  9: [0.5, 1]\n"32x48":\n  9: [1.0, 1]\n')
    flags = {"bucket_config": path, "global_batch_size": None, "latent_cache": tmp_path / "cache"}
    run = small_run(three_shards, train_iters=9, encode_ahead=0, **flags)
    encode(0, run)
    sizes = {
        tuple(entry.size) for journal in (tmp_path / "cache").glob("*.entries.jsonl")
        for entry in read_journal(journal)[0]
    }  # fmt: skip
    assert sizes == {(9, 64, 96), (9, 32, 48)}
    count = Count(monkeypatch)
    train(run)
    assert count.since()[0] == 0
    other = small_run(three_shards, train_iters=9, **flags)
    path.write_text('"64x96":\n  9: [1.0, 1]\n')
    with pytest.raises(Exception, match=r"--bucket-config: 9 x 32 x 48, 9 x 64 x 96; this run has 9 x 64 x 96"):
        train(other)


def test_a_full_disk_ends_it_with_the_part(three_shards, tmp_path, monkeypatch) -> None:
    def full(self, row, size, content):
        raise self._failure(OSError(28, "No space left on device"))

    monkeypatch.setattr(PartWriter, "append", full)
    with pytest.raises(RuntimeError, match=r"\.shard_000000\.tar cannot be written \(No space left on device\)"):
        encode(0, small_run(three_shards, latent_cache=tmp_path))

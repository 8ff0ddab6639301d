"""Whole runs with --latent-cache on one rank: the first epoch encodes, later ones read, and no bit differs."""

import json
from pathlib import Path

import pytest

from tests.distributed.layouts import train as train_on_ranks
from tests.shards import write_shards
from tests.training.small import small_run
from vidtron import training
from vidtron.config.errors import ConfigurationError
from vidtron.config.world import World
from vidtron.encoders.hashed_tokens import HashedTokens
from vidtron.encoders.space_time import SpaceTimeTransform

ALONE = World(size=1, rank=0, local_rank=0, has_cuda=False)
EPOCHS = {"train_iters": 8, "global_batch_size": 2, "clip_window": "centre", "text_dropout": 0.3}
"""Two epochs of the 8 clips."""


def train(run):
    return training.run(run, ALONE)


class Count:
    """How often the encoders work."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.videos, self.captions = 0, 0
        encode_video, encode_text = SpaceTimeTransform.encode, HashedTokens.encode

        def counted_video(autoencoder, video):
            self.videos += 1
            return encode_video(autoencoder, video)

        def counted_text(encoder, captions):
            self.captions += len(captions)
            return encode_text(encoder, captions)

        monkeypatch.setattr(SpaceTimeTransform, "encode", counted_video)
        monkeypatch.setattr(HashedTokens, "encode", counted_text)

    def since(self) -> tuple[int, int]:
        """(videos, captions) since the last call."""
        counts, self.videos, self.captions = (self.videos, self.captions), 0, 0
        return counts


@pytest.mark.parametrize("flags", [{}, {"in_channels": 32, "image_dropout": 0.3}, {"bf16": True}])
def test_training_is_the_same_bit_by_bit_with_a_cache(shards: Path, tmp_path: Path, flags) -> None:
    expected = train(small_run(shards, **EPOCHS, **flags))
    cached = small_run(shards, **EPOCHS, **flags, latent_cache=tmp_path / "cache")
    for _ in range(2):  # filling the cache; with a full one
        result = train(cached)
        assert result.losses == expected.losses
        assert result.gradient_norms == expected.gradient_norms


@pytest.mark.parametrize("workers", [0, 2])
def test_the_first_epoch_encodes_and_the_second_reads(shards, tmp_path, monkeypatch, workers) -> None:
    count = Count(monkeypatch)
    run = small_run(shards, **EPOCHS, latent_cache=tmp_path, num_workers=workers, encode_ahead=0, prefetch_samples=2)
    train(run)
    videos, _ = count.since()
    # With workers the second epoch begins to be loaded while the first one is still encoded.
    assert videos == 8 if workers == 0 else 8 <= videos <= 12
    train(run)
    assert count.since() == (0, 1)  # the caption of no words


def test_random_windows_stay_with_their_samples(shards, tmp_path, monkeypatch) -> None:
    count = Count(monkeypatch)
    flags = {**EPOCHS, "clip_window": "random", "num_workers": 0, "encode_ahead": 0}
    first = train(small_run(shards, **flags, latent_cache=tmp_path))
    assert count.since()[0] == 8
    assert train(small_run(shards, **flags, latent_cache=tmp_path)).losses == first.losses
    lines = (tmp_path / "part-000000.entries.jsonl").read_text().splitlines()
    assert len({json.loads(line)["frames"][0] for line in lines}) > 1


@pytest.mark.parametrize("window", ["random", "centre", "sat"])
def test_the_log_tells_whether_a_cache_shows_other_frames(shards, tmp_path, window) -> None:
    """Random windows are drawn for samples with a cache, and for positions without."""
    flags = {**EPOCHS, "clip_window": window, "fps": 8.0 if window == "sat" else None}
    plain = train(small_run(shards, **flags, save=tmp_path / "plain"))
    filling = train(small_run(shards, **flags, save=tmp_path / "cached", latent_cache=tmp_path / "cache"))
    reading = {"num_workers": 2, "micro_batch_size": 1}
    train(small_run(shards, **{**flags, **reading}, save=tmp_path / "read", latent_cache=tmp_path / "cache"))
    told = {
        name: [digests(tmp_path / run, name) for run in ("plain", "cached", "read")]
        for name in ("samples_digest", "clips_digest")
    }
    first, *others = told["samples_digest"]
    assert others == [first, first]
    first, *others = told["clips_digest"]
    assert others[0] == others[1] and len(set(first)) == len(first)
    if window == "random":
        assert all(one != other for one, other in zip(first, others[0], strict=True))
        assert plain.losses[0] != filling.losses[0]
    else:
        assert others[0] == first and plain.losses == filling.losses


def digests(folder: Path, name: str) -> list[str]:
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row[name] for row in rows if row["kind"] == "train"]


def test_a_resumed_run_finds_what_was_written(pool, shards, tmp_path, monkeypatch) -> None:
    expected = train(small_run(shards, **EPOCHS))
    count = Count(monkeypatch)
    flags = {**EPOCHS, "latent_cache": tmp_path / "cache", "save": tmp_path / "run", "load": tmp_path / "run"}
    first = train(small_run(shards, exit_interval=3, encode_ahead=0, num_workers=0, **flags))
    assert count.since()[0] == 6
    second = train(small_run(shards, encode_ahead=0, num_workers=0, **flags))
    assert count.since()[0] == 2
    assert first.losses + second.losses == expected.losses
    entries = [len(path.read_text().splitlines()) for path in sorted((tmp_path / "cache").glob("*.entries.jsonl"))]
    assert entries == [6, 2]


def test_a_cache_may_be_added_to_a_run_of_centred_windows(shards, tmp_path) -> None:
    expected = train(small_run(shards, **EPOCHS))
    saved = {"save": tmp_path / "run", "load": tmp_path / "run"}
    first = train(small_run(shards, exit_interval=3, **EPOCHS, **saved))
    second = train(small_run(shards, **EPOCHS, **saved, latent_cache=tmp_path / "cache"))
    assert first.losses + second.losses == expected.losses


def test_the_log_says_what_the_cache_holds(shards, tmp_path, capsys) -> None:
    for entries in (0, 2):
        train(small_run(shards, train_iters=1, encode_ahead=0, latent_cache=tmp_path))
        assert f"latent cache: {entries} encoded clips in {tmp_path}" in capsys.readouterr().out


def test_caches_say_what_they_were_made_with_as_ever(shards, tmp_path) -> None:
    """Another name or fingerprint of the same thing would refuse all caches there are."""
    train(small_run(shards, train_iters=1, encode_ahead=0, clip_window="centre", latent_cache=tmp_path))
    header = json.loads((tmp_path / "cache.json").read_text())
    del header["made_with"]["--data-path (the shards)"]  # the test's clips are other bytes with another encoder
    assert header == {
        "format": "vidtron-latents",
        "version": 1,
        "made_with": {
            "--vae-path (and --vae-tiling)": "space-time-transform-d9d99925e1895785",
            "--posterior": "sample",
            "--text-encoder-path": "hashed-tokens-16x6-v1",
            "--bf16 (dtype of the encoders)": "float32",
            "--scale-factor": "1.0",
            "--num-frames, --height, --width or --bucket-config": "9 x 32 x 48",
            "--fps": "unset",
            "--frame-interval": "1",
            "--short-clip": "pad",
            "--clip-window": "centre",
            "--model (first frames of image-to-video)": "not kept",
        },
    }


def test_evaluations_leave_the_cache_alone(shards, tmp_path) -> None:
    held_out = write_shards(tmp_path / "valid", clips=2, first_seed=50)
    flags = {"eval_interval": 1, "eval_iters": 1, "valid_data_path": [str(held_out)]}
    train(small_run(shards, train_iters=1, encode_ahead=0, latent_cache=tmp_path / "cache", **flags))
    lines = (tmp_path / "cache" / "part-000000.entries.jsonl").read_text().splitlines()
    assert len(lines) == 2


def test_bad_samples_are_not_cached(tmp_path) -> None:
    folder = write_shards(tmp_path / "broken", clips=4)
    content = bytearray((folder / "shard_000000.tar").read_bytes())
    content[512:1500] = bytes(988)
    (folder / "shard_000000.tar").write_bytes(content)
    flags = {**EPOCHS, "train_iters": 4, "encode_ahead": 0}
    expected = train(small_run(folder, **flags))
    cached = train(small_run(folder, **flags, latent_cache=tmp_path / "cache"))
    assert cached.losses == expected.losses
    keys = [json.loads(line)["key"] for line in (tmp_path / "cache" / "part-000000.entries.jsonl").open()]
    assert sorted(keys) == ["clip001", "clip002", "clip003"]


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ({"scale_factor": 0.5}, "--scale-factor: 1.0; this run has 0.5"),
        ({"num_frames": 5}, "--num-frames, --height, --width or --bucket-config: 9 x 32 x 48; this run has 5 x 32"),
        ({"fps": 4.0}, "--fps: unset; this run has 4"),
        ({"frame_interval": 2}, "--frame-interval: 1; this run has 2"),
        ({"clip_window": "random"}, "--clip-window: centre; this run has random of --seed 1234"),
        ({"text_length": 5}, "--text-encoder-path: hashed-tokens-16x6"),
        ({"in_channels": 32}, "--model (first frames of image-to-video): not kept; this run has kept"),
    ],
)
def test_caches_of_other_runs_are_refused_by_name(shards, tmp_path_factory, flags, name) -> None:
    cache = tmp_path_factory.getbasetemp() / "one-cache"
    steps = {**EPOCHS, "train_iters": 1}
    train(small_run(shards, **steps, latent_cache=cache))
    with pytest.raises(ConfigurationError) as caught:
        train(small_run(shards, **{**steps, **flags}, latent_cache=cache))
    (error,) = caught.value.errors
    assert error.startswith("--latent-cache") and name in error


def test_a_cache_of_other_shards_is_refused(shards, tmp_path) -> None:
    train(small_run(shards, train_iters=1, latent_cache=tmp_path / "cache"))
    other = write_shards(tmp_path / "other", clips=2, first_seed=9)
    with pytest.raises(ConfigurationError, match=r"made with another --data-path \(the shards\)"):
        train(small_run(other, train_iters=1, latent_cache=tmp_path / "cache"))


@pytest.mark.parametrize(
    "flags", [{}, {"tensor_model_parallel_size": 2}], ids=["two replicas", "one replica of two ranks"]
)
def test_two_ranks_fill_one_cache(pool, shards, tmp_path, flags) -> None:
    expected = pool.run(train_on_ranks, 2, small_run(shards, **EPOCHS, **flags))[0]
    cache = {"latent_cache": tmp_path / "cache"}
    saved = {"save": tmp_path / "run", "load": tmp_path / "run", "exit_interval": 3}
    first = pool.run(train_on_ranks, 2, small_run(shards, **EPOCHS, **flags, **cache, **saved))[0]
    second = pool.run(train_on_ranks, 2, small_run(shards, **EPOCHS, **flags, **cache, **saved))[0]
    third = pool.run(train_on_ranks, 2, small_run(shards, **EPOCHS, **flags, **cache, **saved))[0]
    assert first.losses + second.losses + third.losses == expected.losses
    parts = sorted((tmp_path / "cache").glob("*.entries.jsonl"))
    assert len(parts) >= 2
    keys = [json.loads(line)["key"] for part in parts for line in part.open()]
    assert set(keys) == {f"clip{number:03d}" for number in range(8)}


def test_another_number_of_ranks_finds_everything(pool, shards, tmp_path, monkeypatch) -> None:
    flags = {**EPOCHS, "train_iters": 4}
    pool.run(train_on_ranks, 2, small_run(shards, **flags, latent_cache=tmp_path))
    count = Count(monkeypatch)
    train(small_run(shards, **EPOCHS, latent_cache=tmp_path))
    assert count.since() == (0, 1)

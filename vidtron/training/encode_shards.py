"""Encodes every sample of a run's shards ahead of its training: shards in, shards of latents out.

Each shard is one rank's work and becomes one part of the cache, under its own name, which it takes when it is
finished; so a program that was killed has lost the shards it was at, and nothing else.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidtron.config.data import DataConfig
from vidtron.config.parallel import ParallelConfig
from vidtron.config.run import RunConfig
from vidtron.config.storage import whole_file, writing
from vidtron.config.world import World
from vidtron.data.decoding.loader import Clip, ClipLoader
from vidtron.data.latents.parts import JOURNAL_SUFFIX, TAR_SUFFIX, PartWriter, read_skipped
from vidtron.data.planning.blend import split_weights
from vidtron.data.planning.plan import Plan, PlannedSample
from vidtron.data.shards.index import ShardIndex
from vidtron.models import registry
from vidtron.parallel import Groups, PatientBarrier, broadcast_object, initialized
from vidtron.recipe.from_config import objective_of
from vidtron.training.run_data import RunData

SKIPPED_NAME = "skipped.jsonl"
_NO_BUCKET = -1


@dataclass(frozen=True)
class Shard:
    """One input shard."""

    name: str
    """Name of the shard's part of the cache."""
    rows: range
    """The shard's rows of the index."""


@dataclass(frozen=True)
class EncodeResult:
    """What the cache holds now, of all ranks and runs."""

    shards: int
    finished_before: int
    skipped: int
    """Samples that cannot be read."""


@dataclass
class Progress:
    """What is told on the way, on each rank of its own work."""

    begin: Callable[[int], None] = lambda samples: None
    """There are so many samples in the shards that this rank will encode."""
    sample: Callable[[str | None], None] = lambda problem: None
    """One more is done, or cannot be read and why."""
    shard: Callable[[str, int], None] = lambda name, samples: None
    """A shard is finished, with so many encoded samples."""


class RowPlan:
    """A plan in which position and row are the same, for a loader that goes through shards."""

    def __init__(self, plan: Plan) -> None:
        """`plan`: with fixed windows, in which every row is visited in epoch 0."""
        self.index = plan.index
        self.frames_at = plan.frames_at
        self._buckets = plan.buckets
        self.bucket_of: NDArray[np.int16] = np.full(len(plan.index), _NO_BUCKET, np.int16)
        """Number of each row's bucket in epoch 0, or -1."""
        for rows_of in plan.window_rows(0):
            for number, rows in enumerate(rows_of):
                self.bucket_of[rows] = number

    def slot(self, position: int) -> PlannedSample:
        """The sample in that row."""
        return PlannedSample(position, position, self._buckets[self.bucket_of[position]], 0)

    def used(self, rows: range) -> list[int]:
        """The rows that have a bucket."""
        return (rows.start + np.flatnonzero(self.bucket_of[rows.start : rows.stop] != _NO_BUCKET)).tolist()


def encoding_run(config: RunConfig, world: World) -> RunConfig:
    """The run as its samples are encoded: every rank works alone, whatever the layout of the training is."""
    training = replace(
        config.training, micro_batch_size=1, global_batch_size=world.size, rampup_batch_size=None, eval_interval=None
    )
    return replace(config, parallel=ParallelConfig(), training=training)


def encode_shards(config: RunConfig, world: World, progress: Progress) -> EncodeResult:
    """Encode all shards of --data-path into --latent-cache. Called on every rank.

    Args:
        config: `encoding_run` of the training's, with a latent cache.
        world: as the launcher started this rank.
        progress: told on the way.

    Raises:
        ConfigurationError: the cache was made otherwise.
        LatentCacheError: it cannot be written.
        ShardError: shards cannot be read.
    """
    folder = config.encoders.latent_cache
    assert folder is not None
    # Weights decide how often a sample comes, not what is encoded of it: without them each comes once.
    paths, _ = split_weights(config.data.data_path)
    data_config: DataConfig = replace(config.data, data_path=paths)
    config = replace(config, data=data_config)
    family, objective = registry.family_of(config.model), objective_of(config.objective)
    with initialized(config, world) as groups:
        everyone = PatientBarrier(groups)
        data = RunData(config, groups, family, objective.schedule)
        shards = shards_of(data.plan.index)
        plan = RowPlan(data.plan)
        todo = _unfinished(folder, shards, groups)
        own = todo[groups.rank :: groups.world_size]
        rows = {shard.name: plan.used(shard.rows) for shard in own}
        progress.begin(sum(map(len, rows.values())))
        _encode(data, plan, folder, [(shard, rows[shard.name]) for shard in own], progress)
        everyone.wait()
        skipped = _collect_skipped(folder, shards) if groups.rank == 0 else None
        skipped = broadcast_object(skipped, 0, groups, groups.world)
        return EncodeResult(len(shards), len(shards) - len(todo), skipped)


def shards_of(index: ShardIndex) -> list[Shard]:
    """All shards with their rows. Those of several folders get the folder's number in front of their names."""
    shards = []
    start = 0
    for number, rows in enumerate(index.folder_sizes):
        of_row = index.column("shard", start, start + rows)
        starts = start + np.flatnonzero(np.diff(of_row, prepend=of_row[0] - 1))
        prefix = f"{number}-" if len(index.folder_sizes) > 1 else ""
        for first, end in pairwise([*starts.tolist(), start + rows]):
            name = Path(str(index[first].shard)).name.removesuffix(TAR_SUFFIX)
            shards.append(Shard(prefix + name, range(first, end)))
        start += rows
    return shards


def _unfinished(folder: Path, shards: Sequence[Shard], groups: Groups) -> list[Shard]:
    """Shards without a part, as rank 0 sees them."""
    todo = None
    if groups.rank == 0:
        todo = [shard for shard in shards if not (folder / f"{shard.name}{JOURNAL_SUFFIX}").is_file()]
    return broadcast_object(todo, 0, groups, groups.world)


def _encode(
    data: RunData, plan: RowPlan, folder: Path, work: Sequence[tuple[Shard, list[int]]], progress: Progress
) -> None:
    settings, cache = data.config.data, data.cache
    assert cache is not None
    maker = data.maker(data.config.training.seed, training=False)
    loader = ClipLoader(
        plan,  # type: ignore[arg-type]
        data.decoder,
        (row for _, rows in work for row in rows),
        settings.num_workers,
        settings.prefetch_samples,
        cached=cache.lookup,
        replaces=False,
    )
    with loader, maker.held():
        for shard, rows in work:
            part = PartWriter(folder, f".{shard.name}", replace=True)
            samples = 0
            try:
                for clip in _next(loader, len(rows)):
                    if clip.bad:
                        part.skip(clip.row, clip.key, clip.bad[-1].shard, clip.bad[-1].reason)
                    else:
                        encoded = maker.encode(clip) if clip.cached is None else clip.cached
                        part.append(clip.row, clip.size, cache.content(clip, encoded))
                        samples += 1
                    progress.sample(f"{clip.key}: {clip.bad[-1].reason}" if clip.bad else None)
                part.close()
            except BaseException:
                part.discard()
                raise
            part.rename(shard.name)
            progress.shard(shard.name, samples)


def _next(loader: ClipLoader, count: int) -> Iterator[Clip]:
    for _ in range(count):
        yield next(loader)


def _collect_skipped(folder: Path, shards: Sequence[Shard]) -> int:
    """Write what the journals say of samples without an entry into one file; how many there are."""
    lines = [line for shard in shards for line in read_skipped(folder / f"{shard.name}{JOURNAL_SUFFIX}")]
    if lines:
        with writing(folder / SKIPPED_NAME, "make room there"), whole_file(folder / SKIPPED_NAME) as part:
            part.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return len(lines)

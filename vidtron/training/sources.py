"""Opens shards, encoders and loaders of a run."""

import functools
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial

from torch import Tensor

from vidtron.config.run import RunConfig
from vidtron.data.decoding.decode import ClipDecoder
from vidtron.data.decoding.loader import Clip, ClipLoader
from vidtron.data.planning.blend import split_weights
from vidtron.data.planning.plan import Plan
from vidtron.data.planning.report import report_warnings
from vidtron.data.shards.index import ShardIndex
from vidtron.data.shards.shard_cache import ShardCache
from vidtron.diffusion.schedule import Schedule
from vidtron.encoders.factory import encoder_dtype, text_encoders, text_fingerprints, video_autoencoder
from vidtron.models.family import Family
from vidtron.parallel import Groups, virtual_pipeline_size
from vidtron.recipe.from_config import rank_groups_of, timesteps_of
from vidtron.training.ahead import Ahead
from vidtron.training.batch_size import batch_size_at, global_batch_size
from vidtron.training.batches import BatchSource, FrameMaskOf, StepBatch, Timesteps
from vidtron.training.clip_fit import clip_fit
from vidtron.training.evaluate import EVALUATION_SEED, even_timesteps
from vidtron.training.exchange import ReplicaExchange
from vidtron.training.frame_mask_draws import FrameMaskDraws
from vidtron.training.latent_cache import LatentCache
from vidtron.training.positions import Share
from vidtron.training.samples import SampleMaker
from vidtron.training.steps import Step, step_at, walk
from vidtron.training.timestep_draws import TimestepDraws

QUICKLY_DESCRIBED = 2_000_000
"""Samples whose buckets are found within about a second."""
EVALUATION_PLACES = 1000
"""Evaluations look at the middles of so many equal parts of the schedule: at the timesteps of a table of 1000."""


class DataRoom:
    """Everything a run reads: training and held-out shards, and the frozen encoders."""

    def __init__(self, config: RunConfig, groups: Groups, family: Family, schedule: Schedule) -> None:
        """
        Args:
            config: the run.
            groups: the run's process groups.
            family: the model family, which knows the shape of its latents.
            schedule: the noise levels of the training.

        Raises:
            ValueError: shards or encoder folders cannot be used.
            ConfigurationError: the latent cache cannot be used.
        """
        self.config = config
        self.groups = groups
        self.schedule = schedule
        network = config.network
        self.family = family
        self.timesteps = TimestepDraws(
            config.training.seed,
            functools.cache(partial(timesteps_of, config, schedule)),
            stratified=config.objective.timestep_sampling == "stratified",
            groups=rank_groups_of(config.objective),
        )
        self.plan = training_plan(config, family)
        self.valid_plan = None
        if config.training.eval_interval is not None and config.data.valid_data_path:
            valid = ShardIndex.open(config.data.valid_data_path, ShardCache.from_config(config.data))
            self.valid_plan = Plan.from_config(valid, config.data, EVALUATION_SEED, None, sequential=True)
        masks = FrameMaskDraws.from_config(config.objective.frame_masks, config.training.seed)
        patch = family.temporal_patch(network)
        self.frame_masks: FrameMaskOf | None = (
            (lambda position, frames: masks(position, frames // patch, patch)) if masks.enabled else None
        )
        self.decoder = ClipDecoder.from_config(config.data, groups.device)
        dtype = encoder_dtype(config, groups.device)
        self.autoencoder = video_autoencoder(config.encoders, family.geometry(config), groups.device, dtype)
        self.text_encoders = text_encoders(config.encoders, family.texts(config), groups.device, dtype)
        self.cache: LatentCache | None = None
        if config.encoders.latent_cache is not None:
            self.cache = LatentCache(
                config.encoders.latent_cache,
                config,
                self.plan,
                dtype,
                self.autoencoder,
                self.text_encoders,
                family.inputs(config),
            )

    def state(self) -> dict[str, str]:
        """What a resumed run must find again: fingerprints by the flag they belong to."""
        return {
            "--data-path": self.plan.fingerprint(),
            "--vae-path": self.autoencoder.fingerprint(),
            **text_fingerprints(self.text_encoders),
        }

    def describe(self, say: Callable[[str], None]) -> None:
        """Tell what there is to train on, and what of it should be known.

        That takes a pass over a whole epoch. Where it would hold up the start, a thread makes it, with a plan of its
        own, and the training begins meanwhile.
        """
        if len(self.plan.index) <= QUICKLY_DESCRIBED:
            self._describe(self.plan, say)
            return
        plan = training_plan(self.config, self.family)
        threading.Thread(target=self._describe, args=(plan, say), name="description", daemon=True).start()

    def _describe(self, plan: Plan, say: Callable[[str], None]) -> None:
        for line in self._description(plan):
            say(line)

    def _description(self, plan: Plan) -> Iterator[str]:
        report = plan.epoch_report()
        batches = ""
        if plan.buckets[0].batch_size is not None:
            met = sum(one.batches > 0 for one in report.buckets)
            batches = f" in {report.batches:,} global batches of {met} buckets; {report.left_over:,} left over"
        yield f"{report.used:,} training clips an epoch{batches}"
        yield from (f"warning: {warning}" for warning in report_warnings(report, bool(batches)))
        if self.cache is not None:
            yield f"latent cache: {len(self.cache.store):,} encoded clips in {self.cache.store.folder}"
        if self.valid_plan is not None:
            held_out = self.valid_plan.epoch_report()
            yield f"evaluations of {self.evaluation_samples:,} samples from {held_out.used:,} held-out clips"
            yield from (f"warning: --valid-data-path: {warning}" for warning in report_warnings(held_out, False))

    def training_batches(self, consumed: int, steps: int, bad_rows: Collection[int]) -> "TrainingBatches":
        """Batches of the next `steps` steps of the run from the one on that starts at `consumed`.

        Args:
            consumed: samples of the run so far.
            steps: how many.
            bad_rows: rows of the index that are not tried any more; may grow while batches are made.
        """
        source = self._source(
            self.plan,
            lambda: walk(partial(step_at, self.plan, self._batch_size_at()), consumed, steps),
            self.config.training.seed,
            self.timesteps,
            training=True,
            bad_rows=bad_rows,
        )
        return TrainingBatches(source, self.config.encoders.encode_ahead, self.cache)

    def sync(self) -> None:
        """Return when what was written to the latent cache is on the disk."""
        if self.cache is not None:
            self.cache.sync()

    def _batch_size_at(self) -> Callable[[int], int]:
        return batch_size_at(self.config, self.groups.world_size)

    def evaluation_source(self, bad_rows: Collection[int] = ()) -> BatchSource:
        """Batches of one evaluation, from position 0.

        Args:
            bad_rows: rows of the held-out clips that are not tried any more.
        """
        assert self.valid_plan is not None
        at = partial(step_at, self.valid_plan, lambda consumed: self.evaluation_batch_size)

        def timesteps(step: Step, positions: Sequence[int]) -> Tensor:
            return self.evaluation_timesteps(positions)

        return self._source(
            self.valid_plan,
            lambda: walk(at, 0, self.config.training.eval_iters),
            EVALUATION_SEED,
            timesteps,
            training=False,
            bad_rows=bad_rows,
        )

    @property
    def evaluation_batch_size(self) -> int:
        """Samples of a global batch of an evaluation; with buckets, as many as the largest of theirs."""
        given = [bucket.batch_size for bucket in self.plan.buckets if bucket.batch_size is not None]
        return max(given) if given else global_batch_size(self.config, self.groups.world_size)

    @property
    def evaluation_samples(self) -> int:
        """Samples of one evaluation, over all replicas."""
        return self.evaluation_batch_size * self.config.training.eval_iters

    def evaluation_timesteps(self, positions: Sequence[int]) -> Tensor:
        """Timesteps of an evaluation's samples, float32 [len(positions)]."""
        places = even_timesteps(positions, self.evaluation_samples, EVALUATION_PLACES)
        return self.schedule.timestep((places.double() + 0.5) / EVALUATION_PLACES).float()

    def _fps_of(self, plan: Plan, clip: Clip) -> float:
        data = self.config.data
        return data.fps or plan.index[clip.row].clip.fps / data.frame_interval

    def maker(self, seed: int, *, training: bool) -> SampleMaker:
        """Makes samples of clips; those of the training may be dropped their captions, and go through the cache."""
        plan = self.plan if training or self.valid_plan is None else self.valid_plan
        return SampleMaker(
            self.config,
            partial(self.family.inputs, self.config),
            self.autoencoder,
            self.text_encoders,
            self.groups.device,
            seed=seed,
            dropout=training,
            record=self.cache.record if training and self.cache is not None else None,
            fps_of=partial(self._fps_of, plan),
        )

    def _source(
        self,
        plan: Plan,
        steps: Callable[[], Iterator[Step]],
        seed: int,
        timesteps: Timesteps,
        *,
        training: bool,
        bad_rows: Collection[int] = (),
    ) -> BatchSource:
        """`steps` is called twice: the loader is ahead of the batches."""
        config, groups = self.config, self.groups
        share, data = share_of(config, groups), config.data
        positions = share.owned_positions(steps())
        cache = self.cache if training else None
        return BatchSource(
            loader=ClipLoader(
                plan,
                self.decoder,
                positions,
                data.num_workers,
                data.prefetch_samples,
                bad_rows,
                cached=None if cache is None else cache.lookup,
            ),
            maker=self.maker(seed, training=training),
            share=share,
            exchange=ReplicaExchange(groups.background if training else groups.exchange, groups.device),
            timesteps=timesteps,
            steps=steps(),
            frame_masks=self.frame_masks if training else None,
        )


class TrainingBatches(Iterator[StepBatch]):
    """Batches of a run, some of them made ahead of their use."""

    def __init__(self, source: BatchSource, ahead: int, cache: LatentCache | None = None) -> None:
        self._source = source
        self._cache = cache
        self._ahead = Ahead(source, ahead)

    def __next__(self) -> StepBatch:
        batch = next(self._ahead)
        batch.wait_until_ready()
        return batch

    def close(self) -> None:
        """Finish what has begun, and stop the loader."""
        self._ahead.close()
        self._source.close()
        if self._cache is not None:
            self._cache.close()


def training_plan(config: RunConfig, family: Family) -> Plan:
    """The order in which a run takes its samples.

    Raises:
        ShardError, ValueError: the data cannot be used.
    """
    paths, weights = split_weights(config.data.data_path)
    return Plan.from_config(
        ShardIndex.open(paths, ShardCache.from_config(config.data)),
        config.data,
        config.training.seed,
        clip_fit(family, config),
        weights=weights,
        fixed_windows=config.encoders.latent_cache is not None,
    )


def share_of(config: RunConfig, groups: Groups) -> Share:
    """This rank's part of the work on every batch."""
    return Share(
        micro_batch_size=config.training.micro_batch_size,
        replica=groups.dp_rank,
        replicas=groups.dp_size,
        rank=groups.replica_rank,
        ranks=groups.replica_size,
        count_multiple=groups.pp.size() if virtual_pipeline_size(config) else 1,
    )

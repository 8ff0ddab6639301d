"""What a run reads, opened: shards, held-out shards, latent cache and frozen encoders; and batches of it."""

import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial

from torch import Tensor

from vidtron.config.run import RunConfig
from vidtron.data.decoding.decode import ClipDecoder
from vidtron.data.decoding.loader import Clip, ClipLoader
from vidtron.data.planning.plan import Plan
from vidtron.diffusion.schedule import Schedule
from vidtron.encoders.factory import encoder_dtype, text_encoders, text_fingerprints, video_autoencoder
from vidtron.models.family import Family
from vidtron.parallel import Groups
from vidtron.recipe.from_config import rank_groups_of, timesteps_of
from vidtron.training.batch_size import batch_size_at
from vidtron.training.batches import BatchSource, FrameMaskOf, Timesteps, TrainingBatches
from vidtron.training.evaluate import EVALUATION_SEED
from vidtron.training.exchange import ReplicaExchange
from vidtron.training.frame_mask_draws import FrameMaskDraws
from vidtron.training.held_out import HeldOut
from vidtron.training.latent_cache import LatentCache
from vidtron.training.rank_share import RankShare
from vidtron.training.sample_maker import SampleMaker
from vidtron.training.step_plan import Step, step_at, walk
from vidtron.training.timestep_draws import TimestepDraws
from vidtron.training.training_plan import training_plan


class RunData:
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
        self.family = family
        self.timesteps = TimestepDraws(
            config.training.seed,
            functools.cache(partial(timesteps_of, config, schedule)),
            stratified=config.objective.timestep_sampling == "stratified",
            groups=rank_groups_of(config.objective),
        )
        self.plan = training_plan(config, family)
        self.held_out = HeldOut.open(config, self.plan, schedule, groups.world_size)
        masks = FrameMaskDraws.from_config(config.objective.frame_masks, config.training.seed)
        patch = family.temporal_patch(config.network)
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

    def sync(self) -> None:
        """Return when what was written to the latent cache is on the disk."""
        if self.cache is not None:
            self.cache.sync()

    def training_batches(self, consumed: int, steps: int, bad_rows: Collection[int]) -> TrainingBatches:
        """Batches of the next `steps` steps of the run from the one on that starts at `consumed`.

        Args:
            consumed: samples of the run so far.
            steps: how many.
            bad_rows: rows of the index that are not tried any more; may grow while batches are made.
        """
        at = partial(step_at, self.plan, batch_size_at(self.config, self.groups.world_size))
        source = self._source(
            self.plan,
            lambda: walk(at, consumed, steps),
            self.config.training.seed,
            self.timesteps,
            training=True,
            bad_rows=bad_rows,
        )
        return TrainingBatches(source, self.config.encoders.encode_ahead, self.cache)

    def evaluation_batches(self, bad_rows: Collection[int] = ()) -> BatchSource:
        """Batches of one evaluation, for a run that has held-out clips.

        Args:
            bad_rows: rows of the held-out clips that are not tried any more.
        """
        held_out = self.held_out
        assert held_out is not None

        def timesteps(step: Step, positions: Sequence[int]) -> Tensor:
            return held_out.timesteps(positions)

        return self._source(
            held_out.plan, held_out.steps, EVALUATION_SEED, timesteps, training=False, bad_rows=bad_rows
        )

    def maker(self, seed: int, *, training: bool) -> SampleMaker:
        """Makes samples of clips; those of the training may be dropped their captions, and go through the cache."""
        plan = self.plan if training or self.held_out is None else self.held_out.plan
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

    def _fps_of(self, plan: Plan, clip: Clip) -> float:
        data = self.config.data
        return data.fps or plan.index[clip.row].clip.fps / data.frame_interval

    def _source(
        self,
        plan: Plan,
        steps: Callable[[], Iterator[Step]],
        seed: int,
        timesteps: Timesteps,
        *,
        training: bool,
        bad_rows: Collection[int],
    ) -> BatchSource:
        """`steps` is called twice: the loader is ahead of the batches."""
        groups, data = self.groups, self.config.data
        share = RankShare.from_config(
            self.config,
            replica=groups.dp_rank,
            replicas=groups.dp_size,
            rank=groups.replica_rank,
            ranks=groups.replica_size,
        )
        cache = self.cache if training else None
        return BatchSource(
            loader=ClipLoader(
                plan,
                self.decoder,
                share.owned_positions(steps()),
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

"""Opens shards, encoders and loaders of a run, and draws timesteps."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from vidtron.config.run import RunConfig
from vidtron.data.decode import ClipDecoder
from vidtron.data.index import ShardIndex
from vidtron.data.loader import ClipLoader
from vidtron.data.plan import Plan
from vidtron.diffusion.schedule import Schedule
from vidtron.diffusion.timesteps import RankGroups, stratify
from vidtron.encoders.factory import encoder_dtype, text_encoder, video_autoencoder
from vidtron.inference.objective import rank_groups_of, timesteps_of
from vidtron.parallel import Groups, named_generator, sample_generator
from vidtron.training.batch_size import batch_size_at, global_batch_size
from vidtron.training.batches import BatchSource, ReplicaExchange
from vidtron.training.evaluate import EVALUATION_SEED, even_timesteps
from vidtron.training.positions import Share
from vidtron.training.samples import SampleMaker, SampleShape

EVALUATION_PLACES = 1000
"""Evaluations look at the middles of so many equal parts of the schedule: at the timesteps of a table of 1000."""


class TimestepDraws:
    """Timesteps of a global batch: a function of the seed, the batch's first position and its size."""

    def __init__(
        self,
        seed: int,
        timesteps_at: Callable[[Tensor], Tensor],
        *,
        stratified: bool = False,
        groups: RankGroups | None = None,
    ) -> None:
        """
        Args:
            seed: of the run.
            timesteps_at: quantiles in [0, 1) -> timesteps; the density of the training.
            stratified: one draw in each of as many equal parts of the density as the global batch has samples, the
                parts dealt out at random; otherwise independent draws.
            groups: CogVideoX's: the global batch is cut into as many runs as there are ranks, and each sample draws
                from the timesteps of its rank.
        """
        self.seed = seed
        self.timesteps_at = timesteps_at
        self.stratified = stratified
        self.groups = groups
        self._kept: tuple[tuple[int, int], Tensor] | None = None

    def __call__(self, consumed: int, global_batch_size: int, positions: Sequence[int]) -> Tensor:
        """Timesteps of the samples at `positions` of the batch that starts at `consumed`: float32 [len(positions)]."""
        draws_B = torch.stack(
            [
                torch.rand((), generator=sample_generator(self.seed, position, "timestep"), dtype=torch.float64)
                for position in positions
            ]
        )
        if self.stratified:
            strata = self._strata(consumed, global_batch_size)
            strata_B = strata[[position - consumed for position in positions]]
            draws_B = stratify(draws_B, strata_B, global_batch_size)
        if self.groups is not None:
            samples = global_batch_size // self.groups.ranks
            return self.groups.draw(draws_B, [(position - consumed) // samples for position in positions]).float()
        return self.timesteps_at(draws_B).float()

    def _strata(self, consumed: int, global_batch_size: int) -> Tensor:
        """Number of each slot's part [global batch]; the last answer is kept for the step's other micro-batches."""
        if self._kept is None or self._kept[0] != (consumed, global_batch_size):
            generator = named_generator(self.seed, f"timestep strata of the batch at {consumed}")
            self._kept = (consumed, global_batch_size), torch.randperm(global_batch_size, generator=generator)
        return self._kept[1]


class DataRoom:
    """Everything a run reads: training and held-out shards, and the frozen encoders."""

    def __init__(self, config: RunConfig, groups: Groups, family: Any, schedule: Schedule) -> None:
        """
        Args:
            config: the run.
            groups: the run's process groups.
            family: the model family, which knows the shape of its latents.
            schedule: the noise levels of the training.

        Raises:
            ValueError: shards or encoder folders cannot be used.
        """
        self.config = config
        self.groups = groups
        self.schedule = schedule
        network = config.network
        self.shape = SampleShape(
            latents_TCHW=tuple(family.latent_shape(config)),
            text_LE=(network.text_length, network.text_width),
            image_conditioned=family.image_conditioned(network),
        )
        seed = config.training.seed
        self.timesteps = TimestepDraws(
            seed,
            timesteps_of(config, schedule),
            stratified=config.objective.timestep_sampling == "stratified",
            groups=rank_groups_of(config.objective),
        )
        self.plan = Plan.from_config(ShardIndex.open(config.data.data_path), config.data, seed)
        self.valid_plan = None
        if config.training.eval_interval is not None and config.data.valid_data_path:
            valid = ShardIndex.open(config.data.valid_data_path)
            self.valid_plan = Plan.from_config(valid, config.data, EVALUATION_SEED, sequential=True)
        self.decoder = ClipDecoder.from_config(config.data, groups.device)
        dtype = encoder_dtype(config, groups.device)
        self.autoencoder = video_autoencoder(config.encoders, groups.device, dtype)
        self.text_encoder = text_encoder(
            config.encoders, network.text_length, network.text_width, groups.device, dtype
        )

    def state(self) -> dict[str, str]:
        """What a resumed run must find again: fingerprints by the flag they belong to."""
        return {
            "--data-path": self.plan.fingerprint(),
            "--vae-path": self.autoencoder.fingerprint(),
            "--text-encoder-path": self.text_encoder.fingerprint(),
        }

    def key_of(self, position: int) -> str:
        """Key of the training sample at a position."""
        return self.plan.sample(position).key

    def training_source(self, consumed: int) -> BatchSource:
        """Batches of the run from the step on that starts at `consumed`."""
        sizes = batch_size_at(self.config, self.groups.world_size)
        positions = self._share().owned_positions(consumed, sizes)
        return self._source(self.plan, positions, self.config.training.seed, self.timesteps, dropout=True)

    def evaluation_source(self) -> BatchSource:
        """Batches of one evaluation, from position 0."""
        assert self.valid_plan is not None
        size = global_batch_size(self.config, self.groups.world_size)

        def timesteps(consumed: int, global_batch_size: int, positions: Sequence[int]) -> Tensor:
            return self.evaluation_timesteps(positions)

        positions = _until(self._share().owned_positions(0, lambda consumed: size), self.evaluation_samples)
        return self._source(self.valid_plan, positions, EVALUATION_SEED, timesteps, dropout=False)

    @property
    def evaluation_samples(self) -> int:
        """Samples of one evaluation, over all replicas."""
        return global_batch_size(self.config, self.groups.world_size) * self.config.training.eval_iters

    def evaluation_timesteps(self, positions: Sequence[int]) -> Tensor:
        """Timesteps of an evaluation's samples, float32 [len(positions)]."""
        places = even_timesteps(positions, self.evaluation_samples, EVALUATION_PLACES)
        return self.schedule.timestep((places.double() + 0.5) / EVALUATION_PLACES).float()

    def _share(self) -> Share:
        groups = self.groups
        return Share(
            micro_batch_size=self.config.training.micro_batch_size,
            replica=groups.dp_rank,
            replicas=groups.dp_size,
            rank=groups.replica_rank,
            ranks=groups.replica_size,
        )

    def _source(
        self,
        plan: Plan,
        positions: Iterator[int],
        seed: int,
        timesteps: Callable[[int, int, Sequence[int]], Tensor],
        *,
        dropout: bool,
    ) -> BatchSource:
        data, device = self.config.data, self.groups.device
        maker = SampleMaker(
            self.config, self.shape, self.autoencoder, self.text_encoder, device, seed=seed, dropout=dropout
        )
        return BatchSource(
            loader=ClipLoader(plan, self.decoder, positions, data.num_workers, data.prefetch_samples),
            maker=maker,
            share=self._share(),
            exchange=ReplicaExchange(self.groups.replica, self.shape, device),
            timesteps=timesteps,
        )


def _until(positions: Iterator[int], end: int) -> Iterator[int]:
    """The positions before `end`; they ascend."""
    for position in positions:
        if position >= end:
            return
        yield position

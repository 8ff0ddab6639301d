"""The held-out clips of `--valid-data-path`: which of them an evaluation looks at, and at which timesteps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

from torch import Tensor

from vidtron.config.run import RunConfig
from vidtron.data.planning.plan import Plan
from vidtron.data.shards.index import ShardIndex
from vidtron.data.shards.shard_cache import ShardCache
from vidtron.diffusion.schedule import Schedule
from vidtron.training.batch_size import global_batch_size
from vidtron.training.evaluate import EVALUATION_SEED, even_timesteps
from vidtron.training.step_plan import Step, step_at, walk

PLACES = 1000
"""Evaluations look at the middles of so many equal parts of the schedule: at the timesteps of a table of 1000."""


@dataclass(frozen=True)
class HeldOut:
    """What every evaluation of a run looks at, the same each time."""

    plan: Plan
    batch_size: int
    """Samples of a global batch; with buckets, as many as the largest of the training's."""
    batches: int
    schedule: Schedule
    """The noise levels of the training."""

    @classmethod
    def open(cls, config: RunConfig, training: Plan, schedule: Schedule, world_size: int) -> Self | None:
        """The held-out clips of a run; None where it evaluates none.

        Args:
            config: the run.
            training: the plan of its training.
            schedule: the noise levels of the training.
            world_size: ranks of the run.

        Raises:
            ShardError, ValueError: the shards cannot be used.
        """
        if config.training.eval_interval is None or not config.data.valid_data_path:
            return None
        index = ShardIndex.open(config.data.valid_data_path, ShardCache.from_config(config.data))
        plan = Plan.from_config(index, config.data, EVALUATION_SEED, None, sequential=True)
        given = [bucket.batch_size for bucket in training.buckets if bucket.batch_size is not None]
        return cls(
            plan, max(given) if given else global_batch_size(config, world_size), config.training.eval_iters, schedule
        )

    @property
    def samples(self) -> int:
        """Samples of one evaluation, over all replicas."""
        return self.batch_size * self.batches

    def steps(self) -> Iterator[Step]:
        """The global batches of one evaluation, from position 0."""
        return walk(partial(step_at, self.plan, lambda consumed: self.batch_size), 0, self.batches)

    def timesteps(self, positions: Sequence[int]) -> Tensor:
        """Timesteps of an evaluation's samples, float32 [len(positions)]."""
        places = even_timesteps(positions, self.samples, PLACES)
        return self.schedule.timestep((places.double() + 0.5) / PLACES).float()

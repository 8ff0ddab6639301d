"""Timesteps of a run's samples."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vidtron.config.data import ClipSize
from vidtron.diffusion.timesteps import RankGroups, stratify
from vidtron.parallel import named_generator, sample_generator
from vidtron.training.step_plan import Step


class TimestepDraws:
    """Timesteps of a global batch: a function of the seed, the batch's first position and its size."""

    def __init__(
        self,
        seed: int,
        timesteps_of: Callable[[ClipSize], Callable[[Tensor], Tensor]],
        *,
        stratified: bool = False,
        groups: RankGroups | None = None,
    ) -> None:
        """
        Args:
            seed: of the run.
            timesteps_of: size of the clips -> (quantiles in [0, 1) -> timesteps); the density of the training.
            stratified: one draw in each of as many equal parts of the density as the global batch has samples, the
                parts dealt out at random; otherwise independent draws.
            groups: CogVideoX's: the global batch is cut into as many runs as there are ranks, and each sample draws
                from the timesteps of its rank.
        """
        self.seed = seed
        self.timesteps_of = timesteps_of
        self.stratified = stratified
        self.groups = groups
        self._kept: tuple[tuple[int, int], Tensor] | None = None

    def __call__(self, step: Step, positions: Sequence[int]) -> Tensor:
        """Timesteps of the samples of a step at `positions`: float32 [len(positions)]."""
        draws_B = torch.stack(
            [
                torch.rand((), generator=sample_generator(self.seed, position, "timestep"), dtype=torch.float64)
                for position in positions
            ]
        )
        if self.stratified:
            strata_B = self._strata(step)[[position - step.consumed for position in positions]]
            draws_B = stratify(draws_B, strata_B, step.size)
        if self.groups is not None:
            samples = step.size // self.groups.ranks
            return self.groups.draw(draws_B, [(position - step.consumed) // samples for position in positions]).float()
        return self.timesteps_of(step.clip_size)(draws_B).float()

    def _strata(self, step: Step) -> Tensor:
        """Number of each slot's part [global batch]; the last answer is kept for the step's other micro-batches."""
        key = step.consumed, step.size
        if self._kept is None or self._kept[0] != key:
            generator = named_generator(self.seed, f"timestep strata of the batch at {step.consumed}")
            self._kept = key, torch.randperm(step.size, generator=generator)
        return self._kept[1]

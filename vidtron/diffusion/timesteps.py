"""Timesteps of a global batch from uniform numbers, and subsets of timesteps.

Shape letter: B samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def stratify(uniform_B: Tensor, strata_B: Tensor, count: int) -> Tensor:
    """One draw in each of `count` equal parts of [0, 1): (stratum + uniform) / count.

    Args:
        uniform_B: in [0, 1).
        strata_B: number of each sample's part, a permutation of 0..count-1 over the global batch.
        count: samples of the global batch.

    Returns:
        fp64 [B] in [0, 1), each uniformly distributed on its own if the permutation is random.
    """
    return (strata_B.to(torch.float64) + uniform_B.to(torch.float64)) / count


@dataclass(frozen=True)
class RankGroups:
    """CogVideoX's explicit uniform sampling: groups of data-parallel ranks draw from parts of the timesteps.

    It makes timesteps depend on the layout; `stratify` is what a new run should use. The intervals are as published:
    with a number of groups that does not divide the timesteps the last few are never drawn.
    """

    ranks: int
    groups: int

    def __post_init__(self) -> None:
        if self.ranks < 1 or self.groups < 1 or self.ranks % self.groups:
            raise ValueError(
                f"{self.groups} groups of {self.ranks} ranks; accepted: a divisor of the number of ranks, 1 or more"
            )

    @classmethod
    def version_1_0(cls, ranks: int, timesteps: int = 1000) -> "RankGroups":
        """CogVideoX 1.0's rule: the most groups that divide both the ranks and the timesteps."""
        return cls(ranks, max(g for g in range(1, ranks + 1) if ranks % g == 0 and timesteps % g == 0))

    @classmethod
    def version_1_5(cls, ranks: int, groups: int) -> "RankGroups":
        """CogVideoX 1.5's rule: the given groups, but one group with up to 8 ranks. Raises ValueError."""
        return cls(ranks, 1 if ranks <= 8 else groups)

    def interval(self, rank: int, timesteps: int = 1000) -> tuple[int, int]:
        """First timestep and the one after the last that a rank draws from, each alike."""
        width = timesteps // self.groups
        group = rank // (self.ranks // self.groups)
        return group * width, (group + 1) * width

    def draw(self, uniform_B: Tensor, ranks: Sequence[int], timesteps: int = 1000) -> Tensor:
        """Timesteps from uniform numbers in [0, 1), each within the interval of its rank: fp64 [B]."""
        first_B, last_B = torch.tensor([self.interval(rank, timesteps) for rank in ranks]).T
        return (first_B + (uniform_B.double() * (last_B - first_B)).floor()).clamp(max=last_B - 1)


def trailing_timesteps(steps: int, timesteps: int = 1000) -> list[int]:
    """`steps` training timesteps from the last one down, evenly spaced, 0 left out (arXiv:2305.08891, section 3.3).

    Raises:
        ValueError: more steps than timesteps, or none.
    """
    if not 1 <= steps < timesteps:
        raise ValueError(f"{steps} sampling steps; accepted: 1 to {timesteps - 1}")
    return [int(t) for t in torch.linspace(timesteps - 1, 0, steps + 1, dtype=torch.float64)[:-1].tolist()]


def space_timesteps(timesteps: int, sections: str) -> list[int]:
    """The timesteps that IDDPM's respacing keeps, rising (arXiv:2102.09672).

    Args:
        timesteps: of the training schedule.
        sections: "n": n evenly spaced, both ends included; "a,b,c": so many in each of equal sections;
            "ddimN": N at a whole stride from 0.

    Raises:
        ValueError: a section has fewer timesteps than it is to keep, or no whole stride gives N.
    """
    if sections.startswith("ddim"):
        count = int(sections.removeprefix("ddim"))
        for stride in range(1, timesteps):
            if len(range(0, timesteps, stride)) == count:
                return list(range(0, timesteps, stride))
        raise ValueError(f"no whole stride keeps {count} of {timesteps} timesteps")
    counts = [int(count) for count in sections.split(",")]
    size, extra = divmod(timesteps, len(counts))
    kept, start = set(), 0
    for number, count in enumerate(counts):
        length = size + (number < extra)
        if not 1 <= count <= length:
            raise ValueError(f"{count} of a section of {length} timesteps; accepted: 1 to {length}")
        step = (length - 1) / (count - 1) if count > 1 else 1.0
        place = 0.0
        for _ in range(count):  # added up, not multiplied: upstream's rounding decides ties
            kept.add(start + round(place))
            place += step
        start += length
    return sorted(kept)

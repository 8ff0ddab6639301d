"""Which tokens of a sample stand on which rank.

The whole sequence is padded at its end, split contiguously over the context-parallel ranks, and each such chunk is
split contiguously over the tensor-parallel ranks where sequence parallelism is on.

Shape letters: S tokens on this rank, B micro-batch, D features.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
from torch import Tensor
from torch.distributed import ProcessGroup

from vidtron.config.run import RunConfig

FP8_TOKEN_MULTIPLE = 16
"""Transformer Engine's FP8 matrix products need the rows of a rank to be a multiple of this."""


def sequence_multiple(*, tp: int, cp: int, sequence_parallel: bool, fp8: bool) -> int:
    """The number of tokens that a padded sequence is a multiple of, the one place that decides it."""
    per_cp_rank = math.lcm(tp if sequence_parallel else 1, FP8_TOKEN_MULTIPLE if fp8 else 1)
    return cp * per_cp_rank


def padded_length(tokens: int, multiple: int) -> int:
    """Number of tokens, rounded up to a multiple."""
    return math.ceil(tokens / multiple) * multiple


def padded_sequence(run: RunConfig, tokens: int) -> int:
    """Tokens of a sample, padded for the layout and precision of a run."""
    parallel = run.parallel
    multiple = sequence_multiple(
        tp=parallel.tensor_model_parallel_size,
        cp=parallel.context_parallel_size,
        sequence_parallel=parallel.sequence_parallel,
        fp8=run.precision.fp8_format is not None,
    )
    return padded_length(tokens, multiple)


class Box(NamedTuple):
    """A rank's real tokens, as a box of all tokens of a sample."""

    values: Tensor
    """[..., D]: one dimension for each axis along which tokens are split."""
    offset: tuple[int, ...]
    """Where it begins, D included."""
    whole: tuple[int, ...]
    """Shape of all tokens."""


class TokenLayout(Protocol):
    """Which of a sample's tokens a rank holds between the attentions, and in which order."""

    @property
    def sp_size(self) -> int:
        """Ranks of sequence parallelism; 1: all ranks of a TP group hold the same tokens."""
        ...

    def box(self, x_LD: Tensor) -> Box:
        """The real ones of this rank's tokens."""
        ...


@dataclass(frozen=True)
class TokenSplit:
    """One rank's part of a sequence of `tokens` real tokens, padded to `padded`.

    [start, stop) are the rows of the padded sequence that this rank holds between the attention layers.
    """

    tokens: int
    padded: int
    cp_size: int
    cp_rank: int
    sp_size: int
    sp_rank: int

    @classmethod
    def of_rank(cls, tokens: int, *, tp: ProcessGroup, cp: ProcessGroup, sequence_parallel: bool, fp8: bool) -> Self:
        """The part of the calling rank."""
        multiple = sequence_multiple(tp=tp.size(), cp=cp.size(), sequence_parallel=sequence_parallel, fp8=fp8)
        return cls(
            tokens=tokens,
            padded=padded_length(tokens, multiple),
            cp_size=cp.size(),
            cp_rank=cp.rank(),
            sp_size=tp.size() if sequence_parallel else 1,
            sp_rank=tp.rank() if sequence_parallel else 0,
        )

    @property
    def cp_length(self) -> int:
        """Tokens of one context-parallel rank, padding included."""
        return self.padded // self.cp_size

    @property
    def cp_start(self) -> int:
        """First row of this context-parallel rank's chunk."""
        return self.cp_rank * self.cp_length

    @property
    def length(self) -> int:
        """Tokens this rank holds, padding included."""
        return self.cp_length // self.sp_size

    @property
    def start(self) -> int:
        """First row this rank holds."""
        return self.cp_start + self.sp_rank * self.length

    @property
    def stop(self) -> int:
        """End of the rows this rank holds."""
        return self.start + self.length

    def rows_of(self, start: int, stop: int) -> tuple[int, int]:
        """The part of rows [start, stop) of the whole sequence that this rank holds; two equal numbers where none."""
        first = min(max(start, self.start), stop)
        return first, max(first, min(stop, self.stop))

    def box(self, x_LD: Tensor) -> Box:
        """The real ones of this rank's tokens, rows of the sequence."""
        first, stop = self.rows_of(0, self.tokens)
        return Box(x_LD[: stop - first], (first, 0), (self.tokens, x_LD.shape[-1]))


def gather_sequence(x_SBD: Tensor, split: TokenSplit, *, tp: ProcessGroup, cp: ProcessGroup) -> Tensor:
    """All tokens of the sequence, padding cut off, on every rank of the TP and CP groups: [tokens, B, D].

    For a result that every rank uses alike (each computes the same loss from it): the backward pass takes a rank's own
    rows of the gradient and sums nothing.
    """
    if split.sp_size > 1:
        x_SBD = gather_from_sequence_parallel_region(x_SBD, tensor_parallel_output_grad=False, group=tp)
    if split.cp_size > 1:
        x_SBD = gather_from_sequence_parallel_region(x_SBD, tensor_parallel_output_grad=False, group=cp)
    return x_SBD[: split.tokens]

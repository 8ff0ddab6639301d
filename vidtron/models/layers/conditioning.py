"""What a transformer layer is told besides its hidden states.

Shape letters: T time embeddings, B micro-batch, E width of the time embedding, R features of a head, L tokens of a
context, D hidden width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from vidtron.models.tensor_tree import map_tensors, tensors_in
from vidtron.parallel.tokens import TokenSplit


@dataclass(frozen=True)
class Segment:
    """Contiguous rows of a rank's tokens that share one row of modulation.

    `kind` says which of the layer's sets of modulation vectors (video, text), `time` which time embedding they are
    made from (a kept frame has another noise level than the rest).
    """

    start: int
    stop: int
    kind: int = 0
    time: int = 0


@dataclass(frozen=True)
class Rotary:
    """cos + i sin of the rotary angles, one row for each token of the whole sequence, padding included.

    Shape [tokens, 1, 1, R / 2], complex; text and padding have angle 0.
    """

    turns: Tensor

    def rows(self, start: int, stop: int) -> "Rotary":
        """The part of the table for tokens [start, stop)."""
        return Rotary(self.turns[start:stop])


@dataclass(frozen=True)
class Samples:
    """Which samples of the run and which of their tokens a rank holds: what dropout is a function of."""

    positions: tuple[int, ...]
    """Of each sample of the micro-batch, since step 0."""
    split: TokenSplit


@dataclass(frozen=True)
class Context:
    """A sequence that the tokens attend to and that attends to nothing itself: an encoded text.

    Every rank of a replica has all of it.
    """

    states_LBD: Tensor
    """As the model has projected them; they carry gradients to the projection."""
    mask_BL: Tensor | None = None
    """True where a token is attended to; None: everywhere."""


@dataclass(frozen=True)
class Conditioning:
    """Everything a layer receives besides the hidden states.

    Tensors that carry gradients - wherever they stand in it - are real inputs of every recomputed region
    (`carried`), so that none of them is silently left without one. A family that tells its layers more derives its own
    class and adds fields.
    """

    embedding_TBE: Tensor
    """Input of the layers' modulation, after its activation."""
    segments: tuple[Segment, ...]
    tokens: int
    """Real tokens of the whole sequence: what attention sees."""
    rotary: Rotary | None = None
    samples: Samples | None = None
    contexts: tuple[Context, ...] = ()
    """For cross-attention."""

    def carried(self) -> tuple[Tensor, ...]:
        """The tensors that carry gradients, in a fixed order."""
        return tuple(tensor for tensor in tensors_in(self) if tensor.requires_grad)

    def with_carried(self, tensors: Sequence[Tensor]) -> Self:
        """A copy with other tensors in the place of `carried` (recomputation runs on detached inputs)."""
        remaining = iter(tensors)
        changed = map_tensors(self, lambda old: next(remaining) if old.requires_grad else old)
        assert next(remaining, None) is None
        return changed

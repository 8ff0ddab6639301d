"""What a transformer layer is told besides its hidden states.

Shape letters: T time embeddings, B micro-batch, E width of the time embedding, R features of a head.
"""

from dataclasses import dataclass, replace

from torch import Tensor

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
        """The table of tokens [start, stop)."""
        return Rotary(self.turns[start:stop])


@dataclass(frozen=True)
class Samples:
    """Which samples of the run and which of their tokens a rank holds: what dropout is a function of."""

    positions: tuple[int, ...]
    """Of each sample of the micro-batch, since step 0."""
    split: TokenSplit


@dataclass(frozen=True)
class Conditioning:
    """Everything a layer receives besides the hidden states.

    `embedding_TBE` is the input of the layers' modulation (after its activation) and carries gradients, so it is a
    real input of every recomputed region; the rest is constant.
    """

    embedding_TBE: Tensor
    segments: tuple[Segment, ...]
    tokens: int
    """Real tokens of the whole sequence: what attention sees."""
    rotary: Rotary | None = None
    samples: Samples | None = None

    def with_embedding(self, embedding_TBE: Tensor) -> "Conditioning":
        """The same with another embedding tensor (recomputation runs on detached inputs)."""
        return replace(self, embedding_TBE=embedding_TBE)

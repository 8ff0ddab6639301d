"""A stand-in for a trained text encoder that needs no download.

It knows that two words differ, not what they mean: it exists so that the whole path of a caption runs and can be
checked on any machine. Train for results with `--text-encoder-path`.

Shapes: B batch, L text tokens, E text width.
"""

import hashlib
import math
import re
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from vidtron.encoders.base import EncodedText


class HashedTokens:
    """A fixed text embedding: each word is a Gaussian vector drawn from a hash of the word, with a smaller one for
    its place.

    Words are runs of letters and digits in lower case; words beyond `length` are cut off, places after the last
    word hold one padding vector. The entries have about unit variance. The same caption has the same embedding on
    every machine.
    """

    _PLACE_WEIGHT = 0.5

    def __init__(self, width: int, length: int, device: torch.device | str = "cpu", pooled_width: int = 0) -> None:
        """
        Args:
            width: of a token.
            length: tokens of a caption.
            device: where the results are wanted.
            pooled_width: of the pooled vector; 0: that of a token.
        """
        self.width = width
        self.length = length
        self._pooled_width = pooled_width or width
        self.device = torch.device(device)
        self._vectors: dict[str, Tensor] = {}
        self._places_LE = torch.stack([self._draw(f"place {i}") for i in range(length)])

    @torch.no_grad()
    def encode(self, captions: list[str]) -> EncodedText:
        """States [B, length, width], mask, and the mean of the words' states as the pooled vector; of one of another
        width, the mean of vectors that are drawn for it."""
        words = [self._words(caption) for caption in captions]
        rows = [torch.stack([self._vector(word) for word in one]) for one in words]
        tokens_BLE = torch.stack(rows) if rows else torch.empty(0, self.length, self.width)
        mixed_BLE = (tokens_BLE + self._PLACE_WEIGHT * self._places_LE) / math.sqrt(1 + self._PLACE_WEIGHT**2)
        mask_BL = torch.tensor([[word is not None for word in one] for one in words]).view(len(words), self.length)
        summed_BE = (mixed_BLE * mask_BL[..., None]).sum(1)
        if self._pooled_width != self.width:
            summed_BE = self._summed(words)
        pooled_BE = summed_BE / mask_BL.sum(1).clamp(min=1)[:, None]
        return EncodedText(mixed_BLE, mask_BL, pooled_BE).to(self.device)

    def held(self) -> AbstractContextManager[None]:
        """A context that holds nothing on the device: there are no weights."""
        return nullcontext()

    def fingerprint(self) -> str:
        pooled = f"-pooled-{self._pooled_width}" if self._pooled_width != self.width else ""
        return f"hashed-tokens-{self.width}x{self.length}-v1{pooled}"

    def _words(self, caption: str) -> list[str | None]:
        words: list[str | None] = list(re.findall(r"\w+", caption.lower()))[: self.length]
        return words + [None] * (self.length - len(words))

    def _vector(self, word: str | None) -> Tensor:
        name = "padding" if word is None else f"word {word}"
        if name not in self._vectors:
            self._vectors[name] = self._draw(name)
        return self._vectors[name]

    def _summed(self, words: list[list[str | None]]) -> Tensor:
        """Sum of the vectors of each caption's words, [B, pooled width]."""
        summed_BE = torch.zeros(len(words), self._pooled_width)
        for sum_E, caption in zip(summed_BE, words, strict=True):
            for word in filter(None, caption):
                sum_E += self._draw(f"pooled word {word}", self._pooled_width)
        return summed_BE

    def _draw(self, name: str, width: int | None = None) -> Tensor:
        seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") >> 1
        return torch.randn(width or self.width, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)

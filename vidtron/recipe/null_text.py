"""Texts as a model takes them, and what stands in the place of a text: what training drops captions to, and what
guidance leads away from.

Shape letters: L text tokens, E text features.
"""

from collections.abc import Callable, Sequence

import torch

from vidtron.config.objective import ObjectiveConfig
from vidtron.config.text import TextSpec
from vidtron.encoders.base import EncodedText


def null_texts(
    config: ObjectiveConfig,
    asked: Sequence[TextSpec],
    empty: Callable[[], tuple[EncodedText, ...]],
    device: torch.device,
    own: Sequence[EncodedText] = (),
) -> tuple[EncodedText, ...]:
    """The texts of a sample without a caption, one for each of the model's texts.

    Args:
        config: says which it is.
        asked: the model's texts.
        empty: the empty prompt as each encoder sees it; called where that is what it is.
        device: where the tensors are made.
        own: the sample's caption, which stays where the model has features of its own for a dropped one.
    """
    nulls = tuple(without_words(text, device) for text in asked) if config.null_text == "zeros" else empty()
    if not own:
        return nulls
    return tuple(text if spec.own_null else null for text, null, spec in zip(own, nulls, asked, strict=True))


def without_words(text: TextSpec, device: torch.device) -> EncodedText:
    """A caption of zeros, none of them a word."""
    return EncodedText(
        torch.zeros(text.length, text.width, device=device),
        torch.zeros(text.length, dtype=torch.bool, device=device),
        torch.zeros(text.pooled_width, device=device) if text.pooled_width else None,
    )

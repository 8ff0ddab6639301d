"""What a model takes of a caption."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TextSpec:
    """One text of a sample, as the network takes it from one text encoder."""

    length: int
    """Tokens; captions are padded or cut to it."""
    width: int
    """Features of a token."""
    masked: bool = False
    """The network asks which tokens are the caption's."""
    pooled_width: int = 0
    """Features of the one vector for the whole caption; 0: the network takes none."""
    own_null: bool = False
    """The network has features of its own for a dropped caption, and is told which are dropped; the mask stays."""

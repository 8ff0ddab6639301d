"""What the module of a family says of itself."""

from collections.abc import Mapping
from dataclasses import dataclass

from vidtron.models.preset import Preset


@dataclass(frozen=True)
class Registration:
    """A family's entry in the registry."""

    presets: Mapping[str, Preset]
    """By name."""
    family: str
    """Where its `Family` is: "package.module:attribute"."""

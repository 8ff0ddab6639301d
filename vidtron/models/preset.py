"""A named model and the run settings that belong to it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preset:
    """What `--model NAME` stands for.

    `network` is an instance of the family's configuration dataclass; `defaults` holds values for other sections of the
    run configuration: section -> field -> value.
    """

    name: str
    network: Any
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

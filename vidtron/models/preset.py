"""A named model and the run settings that belong to it."""

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic

from vidtron.config.network import NetworkConfig, NetworkT


@dataclass(frozen=True)
class Preset(Generic[NetworkT]):
    """The model that a name in `--model` stands for.

    `network` is an instance of the family's configuration dataclass; `defaults` holds values for other sections of the
    run configuration: section -> field -> value.
    """

    name: str
    network: NetworkT
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def closest_preset(
    presets: Mapping[str, Preset],
    network: NetworkConfig,
    *,
    kind: Collection[str] = (),
    free: Collection[str] = (),
    exact: Collection[str] = (),
) -> str:
    """The preset of the same kind whose network differs in the fewest fields.

    Args:
        presets: of the network's family.
        network: to be called by one of them.
        kind: fields that make another kind of network where they differ.
        free: fields that do not count: no tensor's meaning depends on them.
        exact: presets that are chosen only for the very network, since they are no one's model (a tiny one).
    """

    def distance(name: str) -> tuple[bool, bool, int]:
        differing = {
            f.name
            for f in dataclasses.fields(network)
            if f.name not in free and getattr(network, f.name) != getattr(presets[name].network, f.name)
        }
        return bool(differing & set(kind)), name in exact and bool(differing), len(differing)

    return min(presets, key=distance)

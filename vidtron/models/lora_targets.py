"""Which linear maps of a family's networks may have adapters, and what they are called outside vidtron."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vidtron.models.layers.lora_places import places_beside

if TYPE_CHECKING:
    from vidtron.config.run import RunConfig
    from vidtron.models.family import Family
    from vidtron.models.layers.checkpoint_rules import Row


@dataclass(frozen=True)
class ForeignModule:
    """A linear map in the network of another format."""

    name: str
    """Module of the whole network; `*` stands for the layer's number."""
    pair: int = 0
    """Which of the map's pairs of matrices: SAT has three beside one map for queries, keys and values."""


@dataclass(frozen=True)
class LoraTarget:
    """One linear map of a layer, or one part of its output, that may have an adapter."""

    flag: str
    """What `--lora-target-modules` calls it."""
    ours: str
    """The adapter in the layer: a place of `models.layers.lora_places.PLACES` and a part of its output, such as
    `self_attention.lora_qkv.q`."""
    aliases: tuple[str, ...] = ()
    """Other names that `--lora-target-modules` takes for it."""
    foreign: Mapping[str, ForeignModule] = field(default_factory=dict)
    """Format of adapters (`diffusers`, `sat`) -> where its files have it; formats that have it not are left out.
    The halves A and B are the same in all."""
    by_default: bool = True
    """Whether it is adapted where `--lora-target-modules` is not given."""

    @property
    def place(self) -> str:
        """The place of the adapter, without the part."""
        return self.ours.rpartition(".")[0]


def chosen(targets: Sequence[LoraTarget], names: Iterable[str] | None) -> list[LoraTarget]:
    """The targets of `--lora-target-modules`.

    Args:
        targets: all of the family.
        names: the flag's words, in any order; None: it is not given.

    Returns:
        Those that are named, or those by default, in the family's order.

    Raises:
        ValueError: no names, or unknown ones; the message names them all. Or the family has no targets.
    """
    if not targets:
        raise ValueError("--lora-rank: models of this family take no adapters; accepted: without --lora-rank")
    if names is None:
        return [target for target in targets if target.by_default]
    names = list(names)
    accepted = {name for target in targets for name in (target.flag, *target.aliases)}
    unknown = [name for name in names if name not in accepted]
    if unknown or not names:
        listed = ", ".join(target.flag for target in targets)
        near = [hint for name in unknown for hint in difflib.get_close_matches(name, accepted, n=1)]
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"--lora-target-modules {' '.join(unknown) or '(none)'}: accepted: {listed}{hint}")
    return [target for target in targets if {target.flag, *target.aliases} & set(names)]


def parts_of(targets: Iterable[LoraTarget]) -> dict[str, list[str]]:
    """Place -> the parts of its output to adapt, as `layers.lora.attach` takes them."""
    parts: dict[str, list[str]] = {}
    for target in targets:
        place, _, part = target.ours.rpartition(".")
        parts.setdefault(place, []).append(part)
    return parts


def adapter_names(rows: Iterable[Row], targets: Iterable[LoraTarget]) -> list[str]:
    """Names of the adapters of a whole network.

    Args:
        rows: the network's weights (`Family.rows`).
        targets: what of every layer is adapted.
    """
    targets = list(targets)
    layers: dict[str, set[str]] = {}
    for row in rows:
        for layer, place in places_beside(row.ours):
            layers.setdefault(layer, set()).add(place)
    return [
        f"{layer}.{target.ours}" for layer, places in layers.items() for target in targets if target.place in places
    ]


def parameter_names(family: Family, run: RunConfig) -> list[str]:
    """Names of the parameters of a run's whole network, adapters included.

    Raises:
        ValueError: `--lora-target-modules` has names that the family does not know.
    """
    rows, adaptation = family.rows(run.network), run.adaptation
    names = [row.ours for row in rows if row.learned]
    if adaptation.lora_rank is not None:
        adapters = adapter_names(rows, chosen(family.lora_targets, adaptation.lora_target_modules))
        names += [f"{adapter}.{half}" for adapter in adapters for half in "AB"]
    return names

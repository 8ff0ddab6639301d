"""Names of adapters in files of other tools, by what a family of models states of them (`Family.lora_targets`)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vidtron.checkpoint.errors import CheckpointError
from vidtron.models import registry
from vidtron.models.family import Family
from vidtron.models.lora_targets import ForeignModule

LAYERS = "decoder.layers"
"""Of our networks; an adapter's name is this, the layer's number and a `LoraTarget.ours`."""
_OURS = re.compile(rf"{re.escape(LAYERS)}\.(\d+)\.(.+)")


def split(name: str) -> tuple[int, str]:
    """Our name of an adapter -> its layer and its `LoraTarget.ours`. Raises CheckpointError: it is none."""
    match = _OURS.fullmatch(name)
    if match is None:
        raise CheckpointError(f"{name}: no name of an adapter")
    return int(match[1]), match[2]


class ForeignNames:
    """Our names of a family's adapters <-> those of one format."""

    def __init__(self, family: Family, form: str):
        self.family, self.form = family, form
        self.targets = {target.ours: target for target in family.lora_targets if form in target.foreign}
        """Of the adapters that the format can hold, by `LoraTarget.ours`."""
        self._patterns = [
            (re.compile(re.escape(theirs.name).replace(r"\*", r"(\d+)")), theirs.pair, ours)
            for ours, target in self.targets.items()
            for theirs in (target.foreign[form],)
        ]

    @property
    def modules(self) -> list[str]:
        """The format's names of the maps, each once."""
        return list(dict.fromkeys(target.foreign[self.form].name for target in self.targets.values()))

    @property
    def flags(self) -> list[str]:
        """Names in `--lora-target-modules` of the adapters that the format can hold."""
        return [target.flag for target in self.targets.values()]

    def ours(self, module: ForeignModule) -> str | None:
        """Our name of the adapter there; None if there is none."""
        for pattern, pair, ours in self._patterns:
            match = pattern.fullmatch(module.name)
            if match is not None and pair == module.pair:
                return f"{LAYERS}.{match[1]}.{ours}"
        return None

    def theirs(self, name: str) -> ForeignModule | None:
        """The format's place of one of our adapters; None if it has no such place."""
        layer, ours = split(name)
        if ours not in self.targets:
            return None
        theirs = self.targets[ours].foreign[self.form]
        return replace(theirs, name=theirs.name.replace("*", str(layer)))

    def told(self, name: str) -> str:
        """An adapter of ours in words that the user knows."""
        layer, ours = split(name)
        flags = {target.ours: target.flag for target in self.family.lora_targets}
        return f"layer {layer}, {flags.get(ours, ours)}"


def names_in(family: Family, form: str, where: str) -> ForeignNames:
    """The names of a family's adapters in a format.

    Args:
        family: of the models.
        form: `diffusers` or `sat`.
        where: the flag or file that asks for the format, for the message.

    Raises:
        CheckpointError: the family states none.
    """
    names = ForeignNames(family, form)
    if not names.targets:
        others = sorted({other for target in family.lora_targets for other in target.foreign})
        accepted = ", ".join(others) or "merging them into the weights (tools/convert_checkpoint.py)"
        raise CheckpointError(
            f"{where}: adapters of this family of models have no names in the {form} format; accepted: {accepted}"
        )
    return names


def recognized(
    modules: Mapping[str, ForeignModule | None], families: Sequence[Family], form: str, path: Path
) -> tuple[ForeignNames, dict[str, str]]:
    """Whose adapters a file holds, and our names of its tensors.

    Args:
        modules: tensor of the file -> the map it is for; None: its name is none of a half.
        families: that the adapters may be of.
        form: of the file.
        path: named in errors.

    Raises:
        CheckpointError: no family has these names, or several have; or there are other tensors.
    """
    if len(families) == 1:
        known = [names_in(families[0], form, str(path))]
    else:
        known = [names for names in (ForeignNames(family, form) for family in families) if names.targets]
    found = [
        {key: ours for key, module in modules.items() if module is not None and (ours := names.ours(module))}
        for names in known
    ]
    whole = [number for number, ours in enumerate(found) if len(ours) == len(modules)]
    if modules and len(whole) > 1:
        told = " or ".join(_preset_of(known[number].family) for number in whole)
        raise CheckpointError(f"{path}: its names are those of several families of models; accepted: --model {told}")
    best = max(range(len(known)), key=lambda number: len(found[number]))
    unknown = [key for key in modules if key not in found[best]]
    if unknown:
        near = [known[best]] if found[best] else known
        listed = ", ".join(dict.fromkeys(module for names in near for module in names.modules))
        network = "this network" if len(near) == 1 else "a known network"
        raise CheckpointError(
            f"{path}: {len(unknown)} tensors that are no adapters of {network}: {', '.join(unknown)}; accepted: LoRA "
            f"pairs on {listed}"
        )
    return known[best], found[best]


def _preset_of(family: Family) -> str:
    return next(name for name in registry.preset_names() if registry.family_of(name) is family)

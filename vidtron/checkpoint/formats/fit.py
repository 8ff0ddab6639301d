"""Whether a file's tensors are a network's, and if not, in what they differ: told by sizes first, then by tensors.

The letters of sizes are those of the family; which format the names are of does not matter.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vidtron.checkpoint.summary import MOST_LINES, collapsed, ranges, summarized
from vidtron.config.network import NetworkConfig
from vidtron.models import registry
from vidtron.models.family import Family
from vidtron.models.layers.checkpoint_rules import LeadingOne, PatchConvolution, Row, Same, Shape, differences

RowsOf = Callable[[Any], Sequence[Row]]

LAYERS = "layers"
_LAYER = "decoder.layers."
_PLAIN = re.compile(r"\d*[A-Z]")
"""A dimension that is a multiple of one size."""
_LINES_BESIDE_SIZES = 4
_MISSING, _UNKNOWN = ": missing", ": unknown"


def misfits(
    rows_of: RowsOf,
    network: NetworkConfig,
    model: str,
    found: Mapping[str, Shape],
    ignored: Collection[str] = (),
    more: Sequence[str] = (),
) -> tuple[int, list[str]]:
    """How many tensors do not fit a network, and in a few lines why.

    Args:
        rows_of: the format's table of a network, expanded.
        network: that the tensors are to be of.
        model: the preset it is called by.
        found: name -> shape of the file's tensors, whole.
        ignored: names that may be there without being in the table.
        more: messages `NAME: what`, each instead of others about that tensor.

    Returns:
        The number of tensors; lines: the sizes in which the tensors differ from the network, layers that are missing
        whole, the first tensors, and the preset that fits best, if it is another.
    """
    family = registry.family_of(model)
    rows = rows_of(network)
    named = {_name(problem) for problem in more}
    problems = [p for p in differences(rows, found, family.sizes(network), network, ignored) if _name(p) not in named]
    problems += more
    if not problems:
        return 0, []
    layers = _Layers(rows)
    lines, others = layers.told(problems, found, network.num_layers)
    theirs = sizes_found(rows, found)
    different = [
        f"{_named(family, key)}: {theirs[key]:,} in the tensors, {value:,} in the network ({model})"
        for key, value in _sizes_of(family, network, rows).items()
        if theirs.get(key, value) != value
    ]
    lines = [*different, *lines]
    lines += summarized(others, _LINES_BESIDE_SIZES if lines else MOST_LINES)
    return len(problems), [*lines, *(_advice(family, rows_of, found, model) if different else [])]


@dataclass(frozen=True)
class _Layers:
    """Which layers a table's tensors are of."""

    rows: Sequence[Row]

    def told(self, problems: list[str], found: Mapping[str, Shape], wanted: int) -> tuple[list[str], list[str]]:
        """Lines for layers that are missing or left over whole, and the messages about all other tensors."""
        names = _names_of_layers(self.rows)
        present = {number for name in found if (number := _layer(name, names)) is not None}
        missing = set(range(wanted)) - present
        extra = {number for number in present if number >= wanted}
        lines = []
        if missing:
            lines.append(f"{_plural(missing)} {ranges(missing)} of {wanted}: missing, with all tensors")
        if extra:
            lines.append(f"{_plural(extra)} {ranges(extra)}: in the tensors, but the network has {wanted}")

        def is_told(problem: str) -> bool:
            return problem.endswith((_MISSING, _UNKNOWN)) and _layer(_name(problem), names) in missing | extra

        return lines, [problem for problem in problems if not is_told(problem)]


def _name(problem: str) -> str:
    return problem.partition(": ")[0]


def _plural(layers: Collection[int]) -> str:
    return "layer" if len(layers) == 1 else "layers"


def _names_of_layers(rows: Sequence[Row]) -> set[str]:
    """The names of a layer's tensors in the format, `*` for its number."""
    return {collapsed(name) for row in rows if row.ours.startswith(_LAYER) for name in row.theirs}


def _layer(name: str, names: Collection[str]) -> int | None:
    """Number of the layer that a tensor belongs to."""
    pattern = collapsed(name)
    if pattern not in names:
        return None
    before = pattern.index("*")
    return int(name[before : len(name) - (len(pattern) - before - 1)])


def layers_found(rows: Sequence[Row], found: Collection[str]) -> set[int]:
    """Numbers of the layers that any tensor is of."""
    names = _names_of_layers(rows)
    return {number for name in found if (number := _layer(name, names)) is not None}


def sizes_found(rows: Sequence[Row], found: Mapping[str, Shape]) -> dict[str, int]:
    """The sizes that most of a file's tensors agree on: letter -> size, and the number of layers.

    Args:
        rows: the format's table of any network.
        found: name -> shape of the file's tensors, whole.
    """
    dims = {collapsed(row.theirs[0]): row for row in rows if _shows_sizes(row)}
    votes: dict[str, Counter[int]] = {}
    for name, shape in found.items():
        row = dims.get(collapsed(name))
        if row is None:
            continue
        if isinstance(row.rule, PatchConvolution):
            shape = (*shape[:1], math.prod(shape[1:]))
        elif isinstance(row.rule, LeadingOne):
            shape = shape[1:]
        for dim, size in zip(row.shape, shape, strict=False):
            if not _PLAIN.fullmatch(dim):
                continue
            times = int(dim[:-1] or 1)
            if size % times == 0:
                votes.setdefault(dim[-1], Counter())[size // times] += 1
    agreed = {letter: counter.most_common(1)[0][0] for letter, counter in votes.items()}
    layers = layers_found(rows, found)
    return agreed | ({LAYERS: len(layers)} if layers else {})


def _named(family: Family, key: str) -> str:
    """Name of a size in messages."""
    return LAYERS if key == LAYERS else family.size_names.get(key, f"size {key}")


def _sizes_of(family: Family, network: NetworkConfig, rows: Sequence[Row]) -> dict[str, int]:
    """The sizes that a network's tensors show."""
    used = {dim[-1] for row in rows if _shows_sizes(row) for dim in row.shape if _PLAIN.fullmatch(dim)}
    known = family.sizes(network)
    letters = [*family.size_names, *(letter for letter in known if letter not in family.size_names)]
    return {LAYERS: network.num_layers} | {key: known[key] for key in letters if key in used}


def _shows_sizes(row: Row) -> bool:
    """Whether the shape of the format's tensor is that of ours, or nearly."""
    return len(row.theirs) == 1 and isinstance(row.rule, Same | PatchConvolution | LeadingOne)


def _advice(family: Family, rows_of: RowsOf, found: Mapping[str, Shape], model: str) -> list[str]:
    """The preset whose sizes the tensors have, or have most of; nothing if it is `model`."""
    names = {collapsed(name) for name in found}
    distances = {}
    for name, preset in registry.relatives(model).items():
        rows = rows_of(preset.network)
        theirs = sizes_found(rows, found)
        wanted = _sizes_of(family, preset.network, rows)
        differing = [_named(family, key) for key, value in wanted.items() if theirs.get(key) != value]
        absent = {collapsed(n) for row in rows for n in row.theirs} ^ names
        distances[name] = (len(differing), len(absent), differing)
    best = min(distances, key=lambda name: distances[name][:2])
    if best == model:
        return []
    differing = distances[best][2]
    if not differing:
        return [f"accepted: --model {best}, whose sizes the tensors have"]
    return [f"no preset has these sizes; the closest is {best}, which differs in: {', '.join(differing)}"]


def nearly(model: str, network: NetworkConfig, found: Mapping[str, Shape], rows_of: RowsOf) -> str | None:
    """The preset that has all sizes of a network but more layers; None if there is none.

    Args:
        model: a preset of the network's family.
        network: as its tensors tell it.
        found: name -> shape of the tensors, whole.
        rows_of: the format's table of a network, expanded.
    """
    family = registry.family_of(model)
    theirs = sizes_found(rows_of(network), found) | {LAYERS: 0}
    for name, preset in registry.relatives(model).items():
        wanted = _sizes_of(family, preset.network, rows_of(preset.network)) | {LAYERS: 0}
        if wanted == theirs and preset.network.num_layers > network.num_layers:
            return name
    return None

"""The table of a comparison, and what it says of the first difference."""

from dataclasses import dataclass
from pathlib import Path

from vidtron.training.comparison.differences import BF16, FP32, KINDS, Bands, Comparison, told
from vidtron.training.comparison.layouts import Layout
from vidtron.training.comparison.recording import Recording

TENSORS = "tensors"
"""Name of a recording in the folder of its run."""


@dataclass(frozen=True)
class Row:
    """One layout beside the reference."""

    layout: Layout
    comparison: Comparison | None
    """None: it did not run."""

    @property
    def is_accepted(self) -> bool:
        """It ran, and nothing is beyond its band."""
        return self.comparison is not None and self.comparison.first is None and self.comparison.tensors > 0


def bands_of(*, bf16: bool, factor: float = 1.0) -> Bands:
    """What is accepted."""
    return (BF16 if bf16 else FP32).times(factor)


def compared(layout: Layout, reference: Path, run: Path, bands: Bands) -> Row:
    """The recordings in two folders beside each other."""
    return Row(layout, Comparison(Recording(reference / TENSORS), Recording(run / TENSORS), bands))


def page(reference: Layout, rows: list[Row], bands: Bands) -> list[str]:
    """Lines for the terminal: a table, the bands, and the first difference of each layout that has one."""
    width = max([len("layout"), len("accepted"), *(len(row.layout.name) for row in rows)])
    lines = ["", f"largest relative differences from {reference.name}:"]
    lines.append(f"{'layout':{width}} {'ranks':>5} " + " ".join(f"{kind:>14}" for kind in KINDS))
    for row in rows:
        head = f"{row.layout.name:{width}} {row.layout.ranks:5} "
        if row.comparison is None:
            lines.append(head + "did not run")
            continue
        found = row.comparison
        has_states = any(name.kind == "states" for name in found.reference.entries)
        numbers = " ".join(
            f"{'-' if kind == KINDS[0] and not has_states else f'{found.largest[kind]:.1e}':>14}" for kind in KINDS
        )
        beyond = f"{found.beyond} of them" if found.beyond else ""
        lines.append(head + numbers + ("  equal" if row.is_accepted else f"  DIFFERENT {beyond}".rstrip()))
    limits = (bands.states, bands.loss, bands.gradients, bands.norm, bands.updates)
    lines.append(f"{'accepted':{width}} {'':5} " + " ".join(f"{limit:14.1e}" for limit in limits))
    lines.append(bands.why)
    lines.append(
        f"gradients below {bands.floor:g} of the whole gradient are measured against that, weights against updates"
    )
    ignored = sorted({key for row in rows if row.comparison for key in row.comparison.not_judged})
    if ignored:
        more = f" and {len(ignored) - 3} more" if len(ignored) > 3 else ""
        lines.append(f"not judged, for their gradient is zero up to rounding: {', '.join(ignored[:3])}{more}")
    for row in rows:
        if row.comparison is not None and not row.is_accepted:
            first, *rest = told(row.comparison) or ["nothing was recorded"]
            lines += ["", f"{row.layout.name} differs first at {first}", *(f"  {line}" for line in rest)]
    return lines

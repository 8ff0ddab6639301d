"""Values of weights that are not finite: found while they are converted, and told."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from vidtron.checkpoint.formats.base import ConversionError, WeightSource
from vidtron.checkpoint.summary import summarized


def all_finite(tensor: Tensor) -> bool:
    """Whether no element is NaN or infinite; takes no memory of the tensor's size."""
    if tensor.numel() == 0:
        return True
    smallest, largest = torch.aminmax(tensor)  # a NaN anywhere makes both NaN
    return bool(smallest.isfinite() & largest.isfinite())


@dataclass
class NotFinite:
    """The tensors of a source that hold values that are not finite."""

    found: list[str] = field(default_factory=list)
    """`NAME: 3 NaN, 1 infinite of 4,096`, by the format's names."""

    def look_at(self, ours: str, tensor: Tensor, source: WeightSource) -> None:
        """Note one of the source's tensors, read.

        Args:
            ours: its name in vidtron's network.
            tensor: its values.
            source: which tells the format's own names for the values.
        """
        if all_finite(tensor):
            return
        parts = source.parts(ours)
        for name, part in parts.items():
            if not all_finite(part):
                nans, infinite = int(part.isnan().sum()), int(part.isinf().sum())
                kinds = ", ".join(f"{n:,} {kind}" for n, kind in ((nans, "NaN"), (infinite, "infinite")) if n)
                self.found.append(f"{name}: {kinds} of {part.numel():,}")

    def warnings(self, path: Path) -> list[str]:
        """Lines that say so; none where all is finite."""
        if not self.found:
            return []
        tensors = "1 tensor" if len(self.found) == 1 else f"{len(self.found):,} tensors"
        return [
            f"{path}: the source holds values that are not finite, in {tensors}; they are written as they are",
            *summarized(self.found),
        ]


def refuse_overflow(name: str, tensor: Tensor, rounded: Tensor) -> None:
    """Raise ConversionError if finite values became infinite by a change of dtype."""
    if rounded.dtype != torch.float16 or tensor.dtype == torch.float16 or all_finite(rounded):
        return
    lost = int((rounded.isinf() & tensor.isfinite()).sum())
    if lost:
        raise ConversionError(
            f"--dtype fp16: {lost:,} values of {name} are beyond {torch.finfo(torch.float16).max:,.0f} and would "
            "become infinite; accepted: bf16 or fp32"
        )

"""One sample as one row of numbers: what the ranks of a replica send each other.

Shape letters: B micro-batch, T latent frames, C latent channels, H, W latent rows and columns, L text tokens, E text
features.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vidtron.models.inputs import VIDEO, Conditions, SampleSpec, TextInput

CLIP = "clip"
"""Frames, height and width in pixels and frames a second: [4]."""
IMAGE = "image_latents"


def latents_name(name: str) -> str:
    """The part that holds latents of that name."""
    return "latents" if name == VIDEO else f"latents.{name}"


def text_name(number: int, part: str = "") -> str:
    """The part that holds the states of a text, or their `mask`, their `pooled` vector or whether it is `dropped`;
    texts count from 0."""
    name = "text" if number == 0 else f"text_{number + 1}"
    return f"{name}.{part}" if part else name


class Packing:
    """The parts of a sample and their places in its row."""

    def __init__(self, spec: SampleSpec) -> None:
        """
        Args:
            spec: what the samples of a batch consist of.
        """
        self.spec = spec
        self.shapes: dict[str, tuple[int, ...]] = {latents_name(name): shape for name, shape in spec.latents.items()}
        """Shape of each part, in the order of their places."""
        for number, text in enumerate(spec.texts):
            self.shapes[text_name(number)] = (text.length, text.width)
            if text.masked:
                self.shapes[text_name(number, "mask")] = (text.length,)
            if text.pooled_width:
                self.shapes[text_name(number, "pooled")] = (text.pooled_width,)
            if text.own_null:
                self.shapes[text_name(number, "dropped")] = ()
        if spec.image_latents:
            self.shapes[IMAGE] = spec.video_TCHW
        if spec.size:
            self.shapes[CLIP] = (4,)
        self.numel = sum(map(math.prod, self.shapes.values()))
        """Numbers in a row."""

    def unpack(self, flat: Tensor) -> dict[str, Tensor]:
        """Views of a packed sample [numel], by name."""
        parts = flat.split([math.prod(shape) for shape in self.shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def batch(self, flats: Sequence[Tensor]) -> tuple[Mapping[str, Tensor], Conditions]:
        """Packed samples -> their clean latents [B, T, C, H, W] by name, and what the network is told of them."""
        unpacked = [self.unpack(flat) for flat in flats]
        stacked = {name: torch.stack([sample[name] for sample in unpacked]) for name in self.shapes}
        clip_B4 = stacked.get(CLIP)
        conditions = Conditions(
            texts=tuple(
                TextInput(
                    stacked[text_name(number)],
                    stacked[text_name(number, "mask")].bool() if text.masked else None,
                    stacked.get(text_name(number, "pooled")),
                    stacked[text_name(number, "dropped")].bool() if text.own_null else None,
                )
                for number, text in enumerate(self.spec.texts)
            ),
            image_latents_BTCHW=stacked.get(IMAGE),
            size_B3=None if clip_B4 is None else clip_B4[:, :3],
            fps_B=None if clip_B4 is None else clip_B4[:, 3],
        )
        return {name: stacked[latents_name(name)] for name in self.spec.latents}, conditions

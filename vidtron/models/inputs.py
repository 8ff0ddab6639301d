"""What a network receives, and what a sample of its training consists of.

Shape letters: B micro-batch, T latent frames, C latent channels, H, W latent rows and columns, L text tokens, E text
features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from vidtron.config.text import TextSpec
from vidtron.models.tensor_tree import map_tensors, tensors_in

VIDEO = "video"
"""Name of the latents that every model of this package has; a model of several kinds (video and audio) adds others."""


@dataclass(frozen=True)
class TextInput:
    """Output of one text encoder for the captions of a batch."""

    states_BLE: Tensor
    mask_BL: Tensor | None = None
    """True where a token is one of the caption's; None: the network does not ask."""
    pooled_BE: Tensor | None = None
    """One vector for the whole caption."""
    dropped_B: Tensor | None = None
    """True where the network puts features of its own in the caption's place; None: nowhere."""


@dataclass(frozen=True)
class Conditions:
    """Everything a network receives besides noisy latents and their timesteps."""

    texts: tuple[TextInput, ...] = ()
    """In the order of the family's `SampleSpec.texts`."""
    image_latents_BTCHW: Tensor | None = None
    """Image-to-video: latents of the first frame, or of every frame."""
    size_B3: Tensor | None = None
    """Frames, height and width of the clips in pixels."""
    fps_B: Tensor | None = None
    """Frames a second."""
    image_embeddings_BLE: Tensor | None = None
    """Image-to-video: what an image encoder says of the first frame, L tokens of it."""

    def in_type(self, dtype: torch.dtype) -> "Conditions":
        """A copy with texts and latents in the dtype that the network computes in; sizes and rates keep theirs."""

        def changed(tensor: Tensor) -> Tensor:
            return tensor.to(dtype) if tensor.is_floating_point() else tensor

        inputs = (self.texts, self.image_latents_BTCHW, self.image_embeddings_BLE)
        texts, latents, embeddings = map_tensors(inputs, changed)
        return replace(self, texts=texts, image_latents_BTCHW=latents, image_embeddings_BLE=embeddings)


def joined(parts: Sequence[Conditions]) -> Conditions:
    """The conditions of several batches as those of one."""

    columns = zip(*map(tensors_in, parts), strict=True)
    return map_tensors(parts[0], lambda _: torch.cat(next(columns)))


@dataclass(frozen=True)
class ModelInput:
    """Everything that a network receives of one micro-batch; identical on all ranks of a replica.

    It is handed over by keyword: mcore's Float16Module casts every positional input to bf16, which has no room for
    timesteps above 256.
    """

    noisy: Mapping[str, Tensor]
    """Noisy latents [B, T, C, H, W] by name."""
    timesteps: Tensor
    """The schedule's, integers or fp32: [B]; of a family that takes them so, [B, T] or one for each token."""
    conditions: Conditions = Conditions()
    frame_mask_BT: Tensor | None = None
    """False where a latent frame of the video is given clean; what the network says of such frames means nothing.
    None: no frame is. Read on the host: a mask on a GPU would be waited for."""
    kept_timestep: float = 0.0
    """The timestep at which given frames are shown, the schedule's cleanest."""
    positions: tuple[int, ...] | None = None
    """Of the samples since step 0; training with dropout needs them."""

    @property
    def noisy_BTCHW(self) -> Tensor:
        """The video's noisy latents."""
        return self.noisy[VIDEO]

    @classmethod
    def of(
        cls,
        noisy_BTCHW: Tensor,
        timesteps: Tensor,
        *states_BLE: Tensor,
        image_latents_BTCHW: Tensor | None = None,
        **others: Any,
    ) -> Self:
        """Input of videos alone, with texts without masks; `others` are fields."""
        texts = tuple(map(TextInput, states_BLE))
        return cls({VIDEO: noisy_BTCHW}, timesteps, Conditions(texts, image_latents_BTCHW), **others)


@dataclass(frozen=True)
class SampleSpec:
    """Shapes of the tensors of one sample."""

    latents: Mapping[str, tuple[int, int, int, int]]
    """Shape (T, C, H, W) by name."""
    texts: tuple[TextSpec, ...]
    """One for each text encoder."""
    image_latents: bool = False
    """Image-to-video: latents of a condition image, as large as the video's."""
    size: bool = False
    """The network is told frames, height, width and rate of the clip."""

    @property
    def video_TCHW(self) -> tuple[int, int, int, int]:
        """Shape of the video's latents."""
        return self.latents[VIDEO]

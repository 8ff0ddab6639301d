"""What the frozen encoders say of one clip: all that a sample is made of, whatever is drawn for it afterwards.

Shape letters: C latent channels or colours, T latent frames, H, W rows and columns, L text tokens, E text features.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vidtron.encoders.base import Posterior


@dataclass(frozen=True)
class EncodedClip:
    """A clip and its caption, encoded."""

    posterior: Posterior
    """Of the unscaled latents."""
    text_LE: Tensor
    """Embedding of the caption, fp32."""
    first_frame_CHW: Tensor | None
    """Image-to-video models: the first pixel frame, uint8. Its noise differs from use to use, so it is encoded each
    time."""

    def to(self, device: torch.device) -> "EncodedClip":
        """The same on a device."""
        image = self.first_frame_CHW
        return EncodedClip(
            self.posterior.to(device), self.text_LE.to(device), None if image is None else image.to(device)
        )


def to_tensors(clip: EncodedClip, empty_LE: Tensor) -> dict[str, Tensor]:
    """What is stored of an encoded clip, on the CPU; `from_tensors` gives it back, bit by bit.

    Moments and text are kept in bf16 where that loses nothing, as with encoders that compute in it. The text is cut
    after its last row that differs from the empty caption's, `empty_LE`. That is after its words where padding has an
    embedding of its own, as of the built-in encoder. CogVideoX's T5 sees the padding without a mask: its rows depend
    on the words before them, and all are kept.
    """
    text_LE = clip.text_LE.cpu()
    differing = (text_LE.view(torch.int32) != empty_LE.view(torch.int32)).any(1).nonzero()
    rows = int(differing[-1]) + 1 if len(differing) else 0
    tensors = {"mean": _narrowed(clip.posterior.mean_CTHW), "text": _narrowed(text_LE[:rows])}
    if clip.posterior.logvar_CTHW is not None:
        tensors["logvar"] = _narrowed(clip.posterior.logvar_CTHW)
    if clip.first_frame_CHW is not None:
        tensors["first_frame"] = clip.first_frame_CHW.cpu()
    return tensors


def from_tensors(tensors: Mapping[str, Tensor], empty_LE: Tensor) -> EncodedClip:
    """The encoded clip that `to_tensors` has stored, on the CPU."""
    text_LE = empty_LE.clone()
    text_LE[: len(tensors["text"])] = tensors["text"]
    logvar = tensors.get("logvar")
    posterior = Posterior(tensors["mean"].float(), None if logvar is None else logvar.float())
    return EncodedClip(posterior, text_LE, tensors.get("first_frame"))


def _narrowed(tensor: Tensor) -> Tensor:
    """The tensor on the CPU, in bf16 where that loses nothing."""
    tensor = tensor.float().cpu()
    narrow = tensor.bfloat16()
    return narrow if torch.equal(narrow.float(), tensor) else tensor

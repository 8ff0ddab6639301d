"""What the frozen encoders say of one clip: all that a sample is made of, whatever is drawn for it afterwards.

Shape letters: C latent channels or colours, T latent frames, H, W rows and columns, L text tokens, E text features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vidtron.config.text import TextSpec
from vidtron.encoders.base import EncodedText, Posterior
from vidtron.models.tensor_tree import map_tensors
from vidtron.training.packing import text_name


@dataclass(frozen=True)
class EncodedClip:
    """A clip and its caption, encoded."""

    posterior: Posterior
    """Of the autoencoder's own latents, which are not normalised."""
    texts: tuple[EncodedText, ...]
    """The caption, as each text encoder sees it."""
    first_frame_CHW: Tensor | None
    """Image-to-video models: the first pixel frame, uint8. Its noise differs from use to use, so it is encoded each
    time."""

    def to(self, device: torch.device) -> "EncodedClip":
        """A copy on a device."""
        return map_tensors(self, lambda tensor: tensor.to(device))


def to_tensors(clip: EncodedClip, empty: Sequence[EncodedText], asked: Sequence[TextSpec]) -> dict[str, Tensor]:
    """What is stored of an encoded clip, on the CPU; `from_tensors` gives it back, bit by bit.

    Moments and texts are kept in bf16 where that loses nothing, as with encoders that compute in it. A text is cut
    after its last row that differs from the empty caption's, `empty`. That is after its words where padding has an
    embedding of its own, as of the built-in encoder. CogVideoX's T5 sees the padding without a mask: its rows depend
    on the words before them, and all are kept. Masks and pooled vectors are stored for models that take them, `asked`.
    """
    tensors = {"mean": _narrowed(clip.posterior.mean_CTHW)}
    for number, (text, without, spec) in enumerate(zip(clip.texts, empty, asked, strict=True)):
        states_LE = text.states_BLE.cpu()
        differing = (states_LE.view(torch.int32) != without.states_BLE.view(torch.int32)).any(1).nonzero()
        rows = int(differing[-1]) + 1 if len(differing) else 0
        tensors[text_name(number)] = _narrowed(states_LE[:rows])
        if spec.masked:
            tensors[text_name(number, "mask")] = text.mask_BL.cpu()
        if spec.pooled_width and text.pooled_BE is not None:
            tensors[text_name(number, "pooled")] = _narrowed(text.pooled_BE)
    if clip.posterior.logvar_CTHW is not None:
        tensors["logvar"] = _narrowed(clip.posterior.logvar_CTHW)
    if clip.first_frame_CHW is not None:
        tensors["first_frame"] = clip.first_frame_CHW.cpu()
    return tensors


def from_tensors(tensors: Mapping[str, Tensor], empty: Sequence[EncodedText]) -> EncodedClip:
    """The encoded clip that `to_tensors` has stored, on the CPU.

    A mask that no model asked for is not there; the empty caption's stands for it.
    """
    logvar = tensors.get("logvar")
    posterior = Posterior(tensors["mean"].float(), None if logvar is None else logvar.float())
    texts = tuple(_text(tensors, number, without) for number, without in enumerate(empty))
    return EncodedClip(posterior, texts, tensors.get("first_frame"))


def _text(tensors: Mapping[str, Tensor], number: int, empty: EncodedText) -> EncodedText:
    stored = tensors[text_name(number)]
    states_LE = empty.states_BLE.clone()
    states_LE[: len(stored)] = stored
    mask_L = tensors.get(text_name(number, "mask"), empty.mask_BL)
    pooled_E = tensors.get(text_name(number, "pooled"))
    return EncodedText(states_LE, mask_L, None if pooled_E is None else pooled_E.float())


def _narrowed(tensor: Tensor) -> Tensor:
    """The tensor on the CPU, in bf16 where that loses nothing."""
    tensor = tensor.float().cpu()
    narrow = tensor.bfloat16()
    return narrow if torch.equal(narrow.float(), tensor) else tensor

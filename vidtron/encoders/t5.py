"""T5.

Shapes: B batch, L text tokens, E text width.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from vidtron.encoders.base import EncodedText
from vidtron.encoders.transformers_text import TextOutput, TransformersTextEncoder


class T5TextEncoder(TransformersTextEncoder):
    """T5's last hidden state, after its final norm.

    For a network that takes no mask the encoder sees the padding too, as in CogVideoX; for one that takes it, only the
    caption, as in PixArt and Open-Sora.
    """

    MODEL_TYPE: ClassVar[str] = "t5"

    @classmethod
    def class_name(cls, config: Mapping[str, Any]) -> str:
        """Transformers' class: the encoder alone, also of a folder that holds the decoder too."""
        return "T5EncoderModel"

    @classmethod
    def output_of(cls, config: Mapping[str, Any]) -> TextOutput:
        """Output by config.json: states, without a limit to their number."""
        return TextOutput(int(config["d_model"]))

    def _encode(self, model: Any, tokens_BL: Tensor, mask_BL: Tensor) -> EncodedText:
        seen = {"attention_mask": mask_BL} if self._masked else {}
        return EncodedText(model(input_ids=tokens_BL, **seen).last_hidden_state, mask_BL.bool())

    def fingerprint(self) -> str:
        return super().fingerprint() + ("-masked" if self._masked else "")

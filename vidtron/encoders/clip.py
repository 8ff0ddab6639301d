"""CLIP's text encoders.

Shapes: B batch, L text tokens, E text width.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from vidtron.encoders.base import EncodedText
from vidtron.encoders.transformers_text import TextOutput, TransformersTextEncoder

_PROJECTED = "CLIPTextModelWithProjection"


class CLIPTextEncoder(TransformersTextEncoder):
    """CLIP's last hidden state, after its final norm, and as the pooled vector the end token's, projected where the
    folder holds a CLIPTextModelWithProjection.

    As in Stable Diffusion no mask is given: a token sees only those before it, so the caption's rows do not depend on
    the padding behind it.
    """

    MODEL_TYPE: ClassVar[str] = "clip_text_model"

    @classmethod
    def class_name(cls, config: Mapping[str, Any]) -> str:
        """Transformers' class for a config.json: with or without projection, as the folder was written."""
        return _PROJECTED if _PROJECTED in (config.get("architectures") or ()) else "CLIPTextModel"

    @classmethod
    def output_of(cls, config: Mapping[str, Any]) -> TextOutput:
        """Output by config.json: as many tokens as the model has positions."""
        width = int(config.get("hidden_size", 512))
        pooled = int(config.get("projection_dim", 512)) if cls.class_name(config) == _PROJECTED else width
        return TextOutput(width, pooled, int(config.get("max_position_embeddings", 77)))

    def _encode(self, model: Any, tokens_BL: Tensor, mask_BL: Tensor) -> EncodedText:
        output = model(input_ids=tokens_BL)
        pooled_BE = getattr(output, "text_embeds", None)
        return EncodedText(
            output.last_hidden_state, mask_BL.bool(), output.pooler_output if pooled_BE is None else pooled_BE
        )

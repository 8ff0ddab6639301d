"""UMT5, as Wan uses it.

Shapes: B batch, L text tokens, E text width.
"""

import html
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from vidtron.encoders.base import EncodedText
from vidtron.encoders.transformers_text import TextOutput, TransformersTextEncoder


class UMT5TextEncoder(TransformersTextEncoder):
    """UMT5's last hidden state with padding unseen and its rows set to 0.

    Captions are cleaned as Wan's are: broken letters repaired (which also makes ASCII of full-width punctuation), HTML
    entities read, white space made single spaces. So an empty caption is one row, its end token's.
    """

    MODEL_TYPE: ClassVar[str] = "umt5"
    PACKAGES: ClassVar[tuple[str, ...]] = ("ftfy",)

    @classmethod
    def class_name(cls, config: Mapping[str, Any]) -> str:
        """Transformers' class: the encoder alone, also of a folder that holds the decoder too."""
        return "UMT5EncoderModel"

    @classmethod
    def output_of(cls, config: Mapping[str, Any]) -> TextOutput:
        """Output by config.json: states, without a limit to their number."""
        return TextOutput(int(config["d_model"]))

    def _clean(self, caption: str) -> str:
        import ftfy

        text = html.unescape(html.unescape(ftfy.fix_text(caption)))
        return re.sub(r"\s+", " ", text).strip()

    def _encode(self, model: Any, tokens_BL: Tensor, mask_BL: Tensor) -> EncodedText:
        states_BLE = model(input_ids=tokens_BL, attention_mask=mask_BL).last_hidden_state
        return EncodedText(states_BLE.masked_fill(mask_BL[..., None] == 0, 0), mask_BL.bool())

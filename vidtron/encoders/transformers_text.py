"""Text encoders as transformers stores them in local folders; each kind of model has a file of its own.

Shapes: B batch, L text tokens, E text width.
"""

import importlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from vidtron.config.data import EncoderConfig
from vidtron.config.text import TextSpec
from vidtron.encoders.base import EncodedText
from vidtron.encoders.folders import read_config, weights_fingerprint
from vidtron.encoders.frozen import FrozenNetwork

logger = logging.getLogger(__name__)

_MANY_UNKNOWN, _FEW_TOKENS = 0.4, 4


@dataclass(frozen=True)
class TextOutput:
    """Sizes of what a text encoder gives."""

    width: int
    """Features of a token."""
    pooled_width: int = 0
    """Features of the one vector for the whole caption; 0: it gives none."""
    longest: int | None = None
    """Tokens of a caption at most; None: as many as wanted."""

    def problems(self, wanted: TextSpec) -> str:
        """Reasons why it does not give what a network takes; empty if it does."""
        found = []
        if self.width != wanted.width:
            found.append(f"gives embeddings of width {self.width}, the model takes {wanted.width}")
        if self.longest is not None and wanted.length > self.longest:
            found.append(f"takes {self.longest} tokens at most, the model takes {wanted.length}")
        if wanted.pooled_width and not self.pooled_width:
            found.append(f"gives no pooled vector, the model takes one of width {wanted.pooled_width}")
        elif wanted.pooled_width not in (0, self.pooled_width):
            found.append(f"gives a pooled vector of width {self.pooled_width}, the model takes {wanted.pooled_width}")
        return "; ".join(found)


@dataclass(frozen=True)
class TextFolders:
    """Folders of the parts of one text encoder."""

    flag: str
    """By which the encoder was given, for messages."""
    path: Path
    """As it was given."""
    model: Path
    tokenizer: Path


class TransformersTextEncoder(ABC):
    """A text encoder from local folders, frozen. Needs the transformers package (ImportError without it).

    Captions are cut or padded to the number of tokens that the network takes.
    """

    MODEL_TYPE: ClassVar[str]
    """The `model_type` of its config.json."""
    PACKAGES: ClassVar[tuple[str, ...]] = ()
    """That it needs besides transformers."""

    def __init__(
        self,
        folders: TextFolders,
        text: TextSpec,
        options: EncoderConfig,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Loads weights and tokenizer.

        Args:
            folders: where they are.
            text: what the network takes.
            options: offloading and compilation.
            device: where it works.
            dtype: of the weights.

        Raises:
            ValueError: tokenizer and encoder do not belong together.
        """
        from transformers import AutoTokenizer

        self._folders = folders
        self._masked = text.masked
        self.length, self.width = text.length, text.width
        self.device = torch.device(device)
        self._tokenizer = AutoTokenizer.from_pretrained(folders.tokenizer, local_files_only=True)
        if self._tokenizer.pad_token_id is None:
            raise ValueError(f"{folders.flag} {folders.path}: the tokenizer has no padding token")
        model_class: Any = getattr(
            importlib.import_module("transformers"), self.class_name(read_config(folders.model))
        )
        model = model_class.from_pretrained(folders.model, local_files_only=True, dtype=dtype)
        parts = (model,) if options.compile_encoders else ()
        self._network = FrozenNetwork(model, self.device, offload=options.encoder_offload, compiled=parts)
        self._told = False
        if len(self._tokenizer) > model.config.vocab_size:
            raise ValueError(
                f"{folders.flag} {folders.path}: the tokenizer knows {len(self._tokenizer)} tokens, the encoder only "
                f"{model.config.vocab_size}"
            )

    @classmethod
    @abstractmethod
    def class_name(cls, config: Mapping[str, Any]) -> str:
        """Transformers' class for a config.json."""

    @classmethod
    @abstractmethod
    def output_of(cls, config: Mapping[str, Any]) -> TextOutput:
        """Output by config.json. Raises KeyError, TypeError or ValueError where it does not state it."""

    @abstractmethod
    def _encode(self, model: Any, tokens_BL: Tensor, mask_BL: Tensor) -> EncodedText:
        """States of tokens; `mask_BL` is 1 where a token is the caption's, 0 elsewhere."""

    def _clean(self, caption: str) -> str:
        """A caption as the tokenizer is given it."""
        return caption

    @torch.no_grad()
    def encode(self, captions: list[str]) -> EncodedText:
        """States [B, length, width], mask and, where the model has one, a pooled vector [B, E]; fp32."""
        if not captions:
            return self.encode([""])[:0]
        captions = [self._clean(caption) for caption in captions]
        tokens = self._tokenizer(
            captions, padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        )
        self._tell_unknown_tokens(tokens.input_ids, tokens.attention_mask, captions)
        with self._network.in_use() as model:
            encoded = self._encode(model, tokens.input_ids.to(self.device), tokens.attention_mask.to(self.device))
        pooled_BE = encoded.pooled_BE
        return EncodedText(
            encoded.states_BLE.float(), encoded.mask_BL, None if pooled_BE is None else pooled_BE.float()
        )

    def held(self) -> AbstractContextManager[None]:
        """Keeps offloaded weights on the device while it is open: one copy for many captions."""
        return self._network.held()

    def _tell_unknown_tokens(self, tokens_BL: Tensor, mask_BL: Tensor, captions: list[str]) -> None:
        """Warn once of a caption that the tokenizer mostly does not know: a sign of the wrong tokenizer."""
        unknown_token = self._tokenizer.unk_token_id
        if self._told or unknown_token in (None, self._tokenizer.pad_token_id, self._tokenizer.eos_token_id):
            return  # the last two: it knows all bytes
        words_B, unknown_B = mask_BL.sum(1), (tokens_BL == unknown_token).sum(1)
        for caption, words, unknown in zip(captions, words_B.tolist(), unknown_B.tolist(), strict=True):
            if unknown > _MANY_UNKNOWN * words and unknown >= _FEW_TOKENS:
                logger.warning(
                    "%s: %d of the %d tokens of %r are unknown to its tokenizer",
                    self._folders.flag,
                    unknown,
                    words,
                    caption,
                )
                self._told = True
                return

    def fingerprint(self) -> str:
        return f"{self.MODEL_TYPE}-{self.length}-{weights_fingerprint(self._folders.model)}"

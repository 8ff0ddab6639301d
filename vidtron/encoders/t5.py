"""A T5 text encoder, as transformers stores it in a local folder.

Shapes: B batch, L text tokens, E text width.
"""

import logging
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor

from vidtron.encoders.base import EncodedText
from vidtron.encoders.folders import model_folder, read_config, weights_fingerprint
from vidtron.encoders.frozen import FrozenNetwork

logger = logging.getLogger(__name__)

FLAG = "--text-encoder-path"
_MANY_UNKNOWN, _FEW_TOKENS = 0.4, 4
_TOKENIZER_FILES = ("tokenizer.json", "spiece.model")


def t5_folder(path: Path) -> Path:
    """The folder of the encoder: `path` or `path`/text_encoder; ValueError, starting with the flag, for anything
    else."""
    folder = model_folder(path, "text_encoder", FLAG)
    try:
        kind = read_config(folder).get("model_type")
    except ValueError as error:
        raise ValueError(f"{FLAG} {path}: {error}") from error
    if kind != "t5":
        raise ValueError(f"{FLAG} {path}: holds a model of type {kind or 'unknown'}; accepted: t5")
    return folder


def tokenizer_folder(path: Path) -> Path:
    """The folder of the tokenizer: `path`, its subfolder tokenizer, or tokenizer beside it (a diffusers pipeline)."""
    candidates = [path, path / "tokenizer", path.parent / "tokenizer"]
    for folder in candidates:
        if any((folder / name).is_file() for name in _TOKENIZER_FILES):
            return folder
    raise ValueError(
        f"{FLAG} {path}: no tokenizer; looked for {' or '.join(_TOKENIZER_FILES)} in "
        + ", ".join(str(folder) for folder in candidates)
    )


def t5_width(path: Path) -> int:
    """Width of the embeddings, read from config.json."""
    return int(read_config(t5_folder(path))["d_model"])


class T5TextEncoder:
    """T5's last hidden state (after its final norm), frozen. Needs the transformers package (ImportError without it).

    As in CogVideoX: captions are cut or padded to `length` tokens and the encoder sees the padding, without a mask.
    """

    def __init__(
        self,
        path: Path,
        length: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        offload: bool = False,
        compiled: bool = False,
    ) -> None:
        """Loads weights and tokenizer; ValueError for a folder that holds something else.

        Args:
            path: see `t5_folder` and `tokenizer_folder`.
            length: tokens of a caption.
            device: where it works.
            dtype: of the weights.
            offload: keep the weights in the CPU's memory while they are not used.
            compiled: compile the network when it is first used.
        """
        from transformers import AutoTokenizer, T5EncoderModel

        self._folder = t5_folder(path)
        self.length = length
        self.device = torch.device(device)
        self._tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder(path), local_files_only=True)
        if self._tokenizer.pad_token_id is None:
            raise ValueError(f"{FLAG} {path}: the tokenizer has no padding token")
        model = T5EncoderModel.from_pretrained(self._folder, local_files_only=True, dtype=dtype)
        self._network = FrozenNetwork(model, self.device, offload=offload, compiled=(model,) if compiled else ())
        self._told = False
        self.width = int(model.config.d_model)
        if len(self._tokenizer) > model.config.vocab_size:
            raise ValueError(
                f"{FLAG} {path}: the tokenizer knows {len(self._tokenizer)} tokens, the encoder only "
                f"{model.config.vocab_size}"
            )

    @torch.no_grad()
    def encode(self, captions: list[str]) -> EncodedText:
        """States [B, length, width] and mask; no pooled vector."""
        if not captions:
            states_BLE = torch.empty(0, self.length, self.width, device=self.device)
            return EncodedText(states_BLE, states_BLE.new_empty(0, self.length, dtype=torch.bool))
        tokens = self._tokenizer(
            captions, padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        )
        self._tell_unknown_tokens(tokens.input_ids, captions)
        with self._network.in_use() as model:
            states_BLE = model(input_ids=tokens.input_ids.to(self.device)).last_hidden_state.float()
        return EncodedText(states_BLE, tokens.attention_mask.to(self.device).bool())

    def held(self) -> AbstractContextManager[None]:
        """Keeps offloaded weights on the device while it is open: one copy for many captions."""
        return self._network.held()

    def _tell_unknown_tokens(self, tokens_BL: Tensor, captions: list[str]) -> None:
        """Warn once of a caption that the tokenizer mostly does not know: a sign of the wrong tokenizer."""
        if self._told or self._tokenizer.unk_token_id is None:
            return
        words_B = (tokens_BL != self._tokenizer.pad_token_id).sum(1)
        unknown_B = (tokens_BL == self._tokenizer.unk_token_id).sum(1)
        for caption, words, unknown in zip(captions, words_B.tolist(), unknown_B.tolist(), strict=True):
            if unknown > _MANY_UNKNOWN * words and unknown >= _FEW_TOKENS:
                logger.warning(
                    "%s: %d of the %d tokens of %r are unknown to its tokenizer", FLAG, unknown, words, caption
                )
                self._told = True
                return

    def fingerprint(self) -> str:
        return f"t5-{self.length}-{weights_fingerprint(self._folder)}"

"""Captions of samples, and the facts of them that the index keeps."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidtron.data.shards.sample_json import caption_at, parsed


@dataclass(frozen=True)
class Words:
    """What the text and the json of a sample say."""

    caption: str
    in_json: bool
    """Whether the caption is that of the json."""
    entries: dict[str, Any]
    """Entries of the json; empty where it is no object."""
    whole: bool
    """Whether there is a json that can be parsed."""
    flaw: str
    """What is wrong, though there is a caption; empty where nothing is."""


def read_words(text: bytes | None, about: bytes | None, caption_key: str | None) -> Words:
    """The caption of a sample and its json.

    Args:
        text: the .txt; None: there is none.
        about: the .json; None: there is none.
        caption_key: where the json has the caption (see `caption_at`); the .txt is taken where it has none. None: the
            .txt has the caption.

    Raises:
        ValueError: there is no caption, or it cannot be used.
    """
    content: Any = None
    flaw = ""
    if about is not None:
        try:
            content = parsed(about)
        except ValueError as error:
            flaw = str(error)
    elif caption_key is not None:
        flaw = "it has no .json"
    entries, whole = content if isinstance(content, dict) else {}, about is not None and not flaw
    if caption_key is not None and not flaw:
        try:
            return Words(caption_at(content, caption_key), True, entries, whole, "")
        except ValueError as error:
            flaw = str(error)
    if text is None:
        if caption_key is not None:
            raise ValueError(f"it has no caption ({flaw}, and there is no .txt)")
        hint = "" if about is None else "; --caption-key takes it from the .json"
        raise ValueError(f"it has no caption (.txt{hint})")
    try:
        caption = text.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"its caption is no UTF-8 ({error})") from error
    if not caption:
        raise ValueError("its caption is empty")
    told = f"{flaw}; its .txt is the caption" if caption_key is not None else flaw
    return Words(caption, False, entries, whole, told)


def token_counter(folder: Path | None) -> Callable[[str], int | None]:
    """Counts a caption's tokens, special ones included, with the tokenizer of a local folder; without one: None.

    Raises:
        ValueError: the folder holds no tokenizer, or transformers is not installed.
    """
    if folder is None:
        return lambda caption: None
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ValueError(f"--tokenizer {folder}: transformers is not installed; accepted: without it") from error
    if not folder.is_dir():
        raise ValueError(f"--tokenizer {folder}: no such folder; accepted: a local folder of a transformers tokenizer")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise ValueError(f"--tokenizer {folder}: holds no tokenizer ({first_line})") from error
    return lambda caption: len(tokenizer(caption)["input_ids"])

"""Facts of a caption that the index keeps."""

from collections.abc import Callable
from pathlib import Path


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

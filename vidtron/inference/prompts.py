"""What the videos are to show: from the command line, from a text file or from a JSONL file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidtron.config.errors import ConfigurationError
from vidtron.config.foreign_json import parse_json

_KEYS: dict[str, type | tuple[type, ...]] = {"prompt": str, "image": str, "seed": int, "negative_prompt": str}


@dataclass(frozen=True)
class Prompt:
    """A video to be made: its text, seed and image."""

    text: str
    number: int
    """The video's noise depends on this and on the seed alone."""
    seed: int
    negative: str | None = None
    """Text that guidance leads away from; None: what training drops text to."""
    image: Path | None = None


@dataclass(frozen=True)
class PromptFlags:
    """The flags' names, for error messages."""

    texts: str = "--prompt"
    file: str = "--prompts-file"
    images: str = "--image"


SAMPLING_FLAGS = PromptFlags()
VALIDATION_FLAGS = PromptFlags("--validation-prompts", "--validation-prompts-file", "--validation-images")


def read_prompts(
    texts: Sequence[str],
    file: Path | None,
    images: Sequence[Path],
    *,
    seed: int,
    negative: str | None = None,
    first_number: int = 0,
    flags: PromptFlags = SAMPLING_FLAGS,
) -> list[Prompt]:
    """The prompts of the command line, then those of the file, numbered in that order.

    Args:
        texts: of the command line.
        file: one prompt a line, empty lines aside; or, if its name ends in .jsonl, one JSON object a line with the key
            prompt and, if wanted, image (a path, from the file's folder), seed, negative_prompt.
        images: one for all prompts that name none, or one for each of `texts`.
        seed: where a line has none.
        negative: where a line has none.
        first_number: of the first prompt.
        flags: how the flags are called.

    Raises:
        ConfigurationError: the file cannot be used, or texts and images do not match; each mistake is named.
    """
    if len(images) > 1 and len(images) != len(texts):
        raise ConfigurationError(
            [f"{flags.images}: {len(images)} images for {len(texts)} {flags.texts}; accepted: 1, or one for each"]
        )
    paired = list(images) if len(images) > 1 else [*images] * len(texts)
    shared = images[0] if len(images) == 1 else None
    entries: list[dict[str, Any]] = [
        {"prompt": text, "image": paired[place] if paired else None} for place, text in enumerate(texts)
    ]
    if file is not None:
        entries += _read(file, flags.file)
    return [
        Prompt(
            text=entry["prompt"],
            number=first_number + place,
            seed=entry.get("seed", seed),
            negative=entry.get("negative_prompt", negative),
            image=entry.get("image") or shared,
        )
        for place, entry in enumerate(entries)
    ]


def check_prompts(
    prompts: Sequence[Prompt], *, image_conditioned: bool, flags: PromptFlags = SAMPLING_FLAGS
) -> Iterator[str]:
    """Prompts without the image that the model needs, or with one that it cannot take; one message each."""
    for prompt in prompts:
        if image_conditioned and prompt.image is None:
            yield (
                f"{flags.images}: prompt {prompt.number} ({prompt.text!r}) has none, and the model makes videos from "
                f'images; accepted: {flags.images} FILE, or "image" in its line of a .jsonl file'
            )
        elif not image_conditioned and prompt.image is not None:
            yield (
                f"{flags.images} {prompt.image}: the model makes videos from text alone; accepted: an image-to-video "
                "model"
            )


def _read(file: Path, flag: str) -> list[dict[str, Any]]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise ConfigurationError([f"{flag} {file}: {reason}; accepted: a text file with a prompt a line"]) from error
    numbered = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        raise ConfigurationError([f"{flag} {file}: no prompts in it; accepted: a text file with a prompt a line"])
    if file.suffix.lower() != ".jsonl":
        return [{"prompt": line} for _, line in numbered]
    entries, errors = [], []
    for number, line in numbered:
        try:
            entries.append(_entry(line, file.parent))
        except ValueError as error:
            errors.append(f"{flag} {file}, line {number}: {error}")
    if errors:
        raise ConfigurationError(errors)
    return entries


def _entry(line: str, folder: Path) -> dict[str, Any]:
    entry = parse_json(line)
    if not isinstance(entry, dict) or "prompt" not in entry:
        raise ValueError(f'accepted: a JSON object with "prompt" and, if wanted, {", ".join(list(_KEYS)[1:])}')
    for key, value in entry.items():
        if key not in _KEYS:
            raise ValueError(f"unknown key {key!r}; accepted: {', '.join(_KEYS)}")
        if not isinstance(value, _KEYS[key]) or isinstance(value, bool):
            raise ValueError(f"{key} {value!r}; accepted: {'a whole number' if key == 'seed' else 'a text'}")
    return {**entry, "image": folder / entry["image"]} if "image" in entry else entry

"""Which encoder a local folder holds and what it gives, told by its config.json without loading anything."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vidtron.config.data import EncoderConfig
from vidtron.config.geometry import LatentGeometry
from vidtron.config.text import TextSpec
from vidtron.encoders import diffusers_vae
from vidtron.encoders.diffusers_vae import DiffusersAutoencoder
from vidtron.encoders.folders import model_folder, read_config
from vidtron.encoders.normalisation import Normalisation
from vidtron.encoders.table import AUTOENCODERS, TEXT_ENCODERS
from vidtron.encoders.transformers_text import TextFolders, TextOutput, TransformersTextEncoder

TEXT_FLAGS = ("--text-encoder-path", "--text-encoder-2-path")
_TEXT_PARTS = (("text_encoder",), ("text_encoder_2", "text_encoder"))
"""Folders of a diffusers pipeline in which the encoders of these flags are looked for."""
_TOKENIZER_FILES = ("tokenizer.json", "spiece.model", "vocab.json")

Kind = TypeVar("Kind")
Told = TypeVar("Told")


@dataclass(frozen=True)
class FoundAutoencoder:
    """The autoencoder of a folder."""

    kind: type[DiffusersAutoencoder]
    folder: Path
    geometry: LatentGeometry
    normalisation: Normalisation


@dataclass(frozen=True)
class FoundText:
    """The text encoder of a folder."""

    kind: type[TransformersTextEncoder]
    folders: TextFolders
    output: TextOutput

    def error(self, wanted: TextSpec) -> str | None:
        """Why it does not suit a network; None if it does."""
        problems = self.output.problems(wanted)
        return f"{self.folders.flag} {self.folders.path}: {problems}" if problems else None


def text_paths(config: EncoderConfig) -> tuple[Path | None, ...]:
    """Folders of the text encoders, in the order of a model's texts; None: a built-in stand-in."""
    return config.text_encoder_path, config.text_encoder_2_path


def find_autoencoder(path: Path) -> FoundAutoencoder:
    """The autoencoder in `path` or `path`/vae. Raises ValueError, starting with the flag, for anything else."""
    try:
        folder = model_folder(path, "vae")
        config = read_config(folder)
        kind = _kind(AUTOENCODERS, config, "_class_name")
        geometry = _told(kind.geometry_of, config, folder)
        return FoundAutoencoder(kind, folder, geometry, _told(kind.normalisation_of, config, folder))
    except ValueError as error:
        raise ValueError(f"{diffusers_vae.FLAG} {path}: {error}") from error


def find_text_encoder(path: Path, number: int = 0) -> FoundText:
    """The text encoder in `path`, or in that part of a diffusers pipeline, and its tokenizer.

    Args:
        path: of the flag.
        number: of the flag: 0 or 1.

    Raises:
        ValueError: there is none, or it does not tell its sizes; starts with the flag.
    """
    flag = TEXT_FLAGS[number]
    try:
        folder = model_folder(path, *_TEXT_PARTS[number])
        config = read_config(folder)
        kind = _kind(TEXT_ENCODERS, config, "model_type")
        output = _told(kind.output_of, config, folder)
        return FoundText(kind, TextFolders(flag, path, folder, _tokenizer_folder(path, folder)), output)
    except ValueError as error:
        raise ValueError(f"{flag} {path}: {error}") from error


def _kind(table: Mapping[str, type[Kind]], config: Mapping[str, Any], key: str) -> type[Kind]:
    found = config.get(key) or f"model without {key}"
    if str(found) not in table:
        raise ValueError(f"holds a {found}; accepted: {', '.join(table)}")
    return table[str(found)]


def _told(read: Callable[[Mapping[str, Any]], Told], config: Mapping[str, Any], folder: Path) -> Told:
    """What a class reads from a config.json. Raises ValueError where a field is missing or is of another kind."""
    try:
        return read(config)
    except KeyError as error:
        raise ValueError(f"{folder / 'config.json'} does not tell {error}") from error
    except TypeError as error:
        raise ValueError(f"{folder / 'config.json'} tells no sizes ({error})") from error


def _tokenizer_folder(path: Path, model: Path) -> Path:
    """`path` itself, its subfolder tokenizer, or tokenizer beside it; in a pipeline that of the model's number."""
    number = model.name.removeprefix("text_encoder") if model.name.startswith("text_encoder") else ""
    candidates = [path, path / f"tokenizer{number}", path.parent / f"tokenizer{number}"]
    for folder in candidates:
        if any((folder / name).is_file() for name in _TOKENIZER_FILES):
            return folder
    places = ", ".join(map(str, candidates))
    raise ValueError(f"no tokenizer; looked for {' or '.join(_TOKENIZER_FILES)} in {places}")

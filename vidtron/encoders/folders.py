"""Finding and naming the parts of a local folder of pretrained weights, without importing diffusers or
transformers."""

import hashlib
from pathlib import Path
from typing import Any

from vidtron.config.foreign_json import parse_json

_WEIGHTS = (".safetensors", ".bin")
_SPOTS, _SPOT_BYTES = 64, 65536


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json; ValueError where it is not readable as JSON."""
    path = folder / "config.json"
    try:
        content = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object")
    return content


def model_folder(path: Path, *parts: str) -> Path:
    """`path` itself where it holds a config.json, else the first of its subfolders `parts` that does (a whole
    diffusers pipeline was given). Raises ValueError where none does."""
    if not path.is_dir():
        raise ValueError("no such folder; accepted: a local folder with config.json and weights")
    for folder in (path, *(path / part for part in parts)):
        if (folder / "config.json").is_file():
            return folder
    raise ValueError(f"neither config.json nor {' nor '.join(f'{part}/config.json' for part in parts)} in it")


def weights_fingerprint(folder: Path) -> str:
    """Short hash of config.json and of the weight files' names, sizes and evenly spaced samples of their bytes.

    Reads at most 4 MiB per file, so that it is quick for weights of any size.
    """
    digest = hashlib.blake2b(digest_size=8)
    digest.update((folder / "config.json").read_bytes())
    for path in sorted(p for p in folder.iterdir() if p.suffix in _WEIGHTS):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size};".encode())
        with path.open("rb") as file:
            for spot in range(_SPOTS):
                file.seek(max(0, size - _SPOT_BYTES) * spot // (_SPOTS - 1))
                digest.update(file.read(_SPOT_BYTES))
    return digest.hexdigest()

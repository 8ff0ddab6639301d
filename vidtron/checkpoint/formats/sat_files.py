"""The files of a SAT checkpoint: which they are, what they hold, and their model-parallel parts joined."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from vidtron.checkpoint.errors import UnreadableFileError
from vidtron.checkpoint.formats.base import ConversionError
from vidtron.checkpoint.summary import summarized
from vidtron.checkpoint.torch_files import load_torch_file
from vidtron.models import registry
from vidtron.models.foreign import SatCheckpoint

NAME = "sat"
SAT_PREFIX = "model.diffusion_model."
"""Of the network's tensors in the engine."""
LATEST = "latest"
ASIDE = ("first_stage_model.", "conditioner.", "denoiser.", "loss_fn.", "sampler.")
"""Parts of upstream's engine beside the network: autoencoder, text encoder, and objects that may hold tables."""
_RANK_FILE = re.compile(r"mp_rank_(\d+)_model_states\.pt")
_ADAPTER = re.compile(r"\.matrix_[AB]\.\d+$")
_LONGEST_NAME = 250
"""Bytes, of a folder."""
ORIGINAL = ".original."
"""Stands before the last part of the name of a weight that has LoRA adapters."""


def rank_files(path: Path, *, ema: bool) -> list[Path]:
    """The files of all model-parallel ranks, in their order.

    Args:
        path: a folder with `latest`, a folder of one tag, or one file.
        ema: take the folder `TAG-ema` beside the tag's.

    Raises:
        ConversionError: they are not there, or not all.
    """
    if path.is_file() and _RANK_FILE.fullmatch(path.name):
        path = path.parent
    folder = path
    if (path / LATEST).is_file():
        folder = path / tag_in(path / LATEST)
    if ema and not folder.name.endswith("-ema"):
        folder = folder.with_name(f"{folder.name}-ema")
    found = {int(m[1]): file for file in folder.glob("mp_rank_*.pt") if (m := _RANK_FILE.fullmatch(file.name))}
    if not found:
        tags = ", ".join(sorted(child.parent.name for child in path.glob("*/mp_rank_00_model_states.pt")))
        raise ConversionError(
            f"--load {path}: no {folder / 'mp_rank_00_model_states.pt'}; accepted: a SAT folder with a `latest` file "
            f"or the folder of one tag{f' ({tags})' if tags else ''}{', for --ema with a TAG-ema' if ema else ''}"
        )
    absent = sorted(set(range(max(found) + 1)) - set(found))
    if absent:
        raise ConversionError(f"--load {folder}: the files of model-parallel ranks {absent} are missing")
    return [found[rank] for rank in range(len(found))]


def tag_in(file: Path) -> str:
    """The folder that a `latest` file names."""
    try:
        tag = file.read_text(encoding="utf-8").strip()
    except ValueError as error:
        raise ConversionError(f"{file}: no text; accepted: the name of a folder beside it") from error
    if not tag.isprintable() or "/" in tag or tag in ("", ".", "..") or len(tag.encode()) > _LONGEST_NAME:
        raise ConversionError(f"{file}: says {tag[:60]!r}; accepted: the name of a folder beside it")
    if not (file.parent / tag).is_dir() and not (file.parent / f"{tag}-ema").is_dir():
        raise ConversionError(f"{file}: says {tag[:60]!r}, and there is no such folder beside it{_tags(file.parent)}")
    return tag


def _tags(folder: Path) -> str:
    tags = ", ".join(sorted(child.parent.name for child in folder.glob("*/mp_rank_00_model_states.pt")))
    return f"; accepted: one of {tags}" if tags else ""


def is_sat(path: Path) -> bool:
    """Whether a path looks like a SAT checkpoint."""
    if path.is_file():
        return _RANK_FILE.fullmatch(path.name) is not None
    return (path / LATEST).is_file() or any(path.glob("mp_rank_*_model_states.pt"))


def sat_models() -> list[SatCheckpoint]:
    """The SAT layouts of all known families."""
    found = (family.foreign.get(NAME) for family in registry.families())
    return [model for model in found if isinstance(model, SatCheckpoint)]


def read_parameters(path: Path, folder: Path) -> dict[str, Any]:
    """Network parameters in upstream's YAML files or a model_config.json in the checkpoint's folders.

    Raises:
        ConversionError: one is damaged, or says what no network has.
    """
    for place in dict.fromkeys((path if path.is_dir() else folder, folder, folder.parent)):
        for file in sorted([*place.glob("model_config.json"), *place.glob("*.yaml"), *place.glob("*.yml")]):
            try:
                content = yaml.safe_load(file.read_text(encoding="utf-8"))  # JSON is YAML
                parameters = next(filter(None, (model.parameters(content) for model in sat_models())), {})
            except RecursionError as error:
                raise ConversionError(f"{file}: nested too deeply; accepted: upstream's configuration") from error
            except (yaml.YAMLError, ValueError, TypeError) as error:
                raise ConversionError(f"{file}: {' '.join(str(error).split())}") from error
            if parameters:
                return parameters
    return {}


def load_module(path: Path, *, trust_pickle: bool) -> dict[str, Tensor]:
    """Name -> tensor of one file, mapped into memory.

    Raises:
        ConversionError: it is damaged, or needs more than tensors and plain values.
    """
    try:
        content = load_torch_file(path, trust_pickle=trust_pickle, mmap=True)
    except UnreadableFileError as error:
        advice = "; --trust-pickle opens it, if you trust where it comes from" if error.unsafe else ""
        raise ConversionError(f"{error}{advice}") from error
    module = content.get("module", content) if isinstance(content, Mapping) else None
    named = module.items() if isinstance(module, Mapping) else ()
    tensors = {name: value for name, value in named if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        raise ConversionError(f"{path}: no tensors under `module`; accepted: a file of SAT's trainer")
    if odd := [name for name, tensor in tensors.items() if tensor.layout != torch.strided or tensor.is_meta]:
        raise ConversionError(f"{path}: {odd[0]}: no plain tensor; accepted: a file of SAT's trainer")
    return tensors


class SatFiles:
    """The network's tensors in the files of all ranks, without prefix; what else is there is listed.

    Base weights of a file with LoRA adapters appear under their plain names; the adapters are in `adapters`.
    """

    def __init__(self, path: Path, *, ema: bool, trust_pickle: bool):
        self.files = rank_files(path, ema=ema)
        self.folder = self.files[0].parent
        self.parameters = read_parameters(path, self.folder)
        self.aside: dict[str, list[str]] = {}
        """Part of the engine -> its names."""
        self.foreign: list[str] = []
        """Names that belong to nothing known."""
        self.adapters: list[dict[str, Tensor]] = []
        """Of each rank."""
        self.ranks: list[dict[str, Tensor]] = []
        for file in self.files:
            self._add(load_module(file, trust_pickle=trust_pickle))
        names = self.ranks[0].keys()
        uneven = sorted(set().union(*(rank.keys() ^ names for rank in self.ranks)))
        if uneven:
            told = summarized([f"{name}: not in the files of all model-parallel ranks" for name in uneven])
            raise ConversionError("\n".join([f"{self.folder}: {len(uneven)} tensors are not everywhere", *told]))

    def _add(self, module: dict[str, Tensor]) -> None:
        bare = not any(name.startswith(SAT_PREFIX) for name in module)  # a network saved without the engine
        tensors: dict[str, Tensor] = {}
        adapters: dict[str, Tensor] = {}
        for name, tensor in module.items():
            part = next((prefix for prefix in ASIDE if name.startswith(prefix)), None)
            if part is not None:
                names = self.aside.setdefault(part.rstrip("."), [])
                if not self.ranks:
                    names.append(name)
            elif not bare and not name.startswith(SAT_PREFIX):
                self.foreign.append(name)
            elif _ADAPTER.search(name):
                adapters[name.removeprefix(SAT_PREFIX)] = tensor
            else:
                tensors[name.removeprefix(SAT_PREFIX).replace(ORIGINAL, ".")] = tensor
        self.ranks.append(tensors)
        self.adapters.append(adapters)

    @property
    def names(self) -> list[str]:
        return list(self.ranks[0])

    def parts(self, name: str) -> list[Tensor]:
        """A tensor's parts, one of each model-parallel rank."""
        return [rank[name] for rank in self.ranks]

"""Adapters in the files of diffusers and PEFT.

Alpha stands in the safetensors header `lora_adapter_metadata`, a PEFT LoraConfig as JSON; without one it is the rank.
Source: diffusers.loaders.lora_base, diffusers.loaders.peft, peft.LoraConfig.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vidtron.checkpoint.errors import CheckpointError
from vidtron.checkpoint.formats.base import first_line
from vidtron.checkpoint.lora_adapters import Adapters, paired, write_file
from vidtron.checkpoint.lora_names import ForeignNames, names_in, recognized
from vidtron.models.family import Family
from vidtron.models.lora_targets import ForeignModule

FILE = "pytorch_lora_weights.safetensors"
HEADER = "lora_adapter_metadata"

_FORM = "diffusers"
_PART = "transformer."
"""The pipeline's part that a tensor's name may begin with."""
_KEY = re.compile(rf"(?:{re.escape(_PART)})?(.+)\.(lora_A|lora_B|alpha)(?:\.weight)?")


def read_diffusers(path: Path, families: Sequence[Family]) -> tuple[Family, Adapters]:
    """The adapters in a safetensors file, or in a folder with one.

    Args:
        path: of the file or folder.
        families: that they may be of.

    Raises:
        CheckpointError: it cannot be read, or its tensors are no adapters of these families.
    """
    file = _file_in(path)
    halves: dict[tuple[str, str], Tensor] = {}
    alphas: dict[str, float] = {}
    with _opened(file) as opened:
        settings = _peft_settings(opened.metadata() or {}, file)
        keys = list(opened.keys())
        matches = {key: _KEY.fullmatch(key.replace(".default.weight", ".weight")) for key in keys}
        modules = {key: match and ForeignModule(match[1]) for key, match in matches.items()}
        names, ours = recognized(modules, families, _FORM, file)
        for key, match in matches.items():
            assert match is not None
            if match[2] == "alpha":
                alphas[ours[key]] = float(opened.get_tensor(key))
            else:
                halves[ours[key], match[2][-1]] = opened.get_tensor(key)

    def alpha_of(name: str, rank: int) -> float:
        if name in alphas:
            return alphas[name]
        module = _module(name, names)
        patterns: dict[str, float] = settings.get("alpha_pattern") or {}
        found = next((v for p, v in patterns.items() if re.match(rf"(.*\.)?({p})$", module)), None)
        alpha = float(settings.get("lora_alpha", rank) if found is None else found)
        return alpha * math.sqrt(rank) if settings.get("use_rslora") else alpha

    try:
        return names.family, paired(halves, alpha_of, file, names.family)
    except (TypeError, ValueError, AttributeError, ArithmeticError, re.error) as error:
        raise CheckpointError(
            f"{file}: its header {HEADER} tells no alpha: {first_line(error)}; accepted: PEFT's LoraConfig"
        ) from error


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, framework="pt") as opened:
            yield opened
    except CheckpointError:
        raise
    except (SafetensorError, ValueError, ArithmeticError, MemoryError, RuntimeError) as error:
        raise CheckpointError(f"{file}: cannot be read, it is truncated or damaged: {first_line(error)}") from error


def _module(name: str, names: ForeignNames) -> str:
    theirs = names.theirs(name)
    assert theirs is not None
    return theirs.name


def _file_in(path: Path) -> Path:
    if path.is_file():
        return path
    found = sorted(path.glob("*.safetensors"))
    if (path / FILE) in found:
        return path / FILE
    if len(found) != 1:
        raise CheckpointError(f"{path}: {len(found)} safetensors files; accepted: one, or a {FILE}")
    return found[0]


def _peft_settings(header: Mapping[str, str], file: Path) -> dict[str, Any]:
    """The LoraConfig in a file's header, without the prefix that names the pipeline's part; empty without one."""
    try:
        given = json.loads(header.get(HEADER) or "{}")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: its header {HEADER} is not JSON: {first_line(error)}") from error
    if not isinstance(given, dict):
        raise CheckpointError(f"{file}: its header {HEADER} is no object; accepted: PEFT's LoraConfig")
    settings = {key.removeprefix(_PART): value for key, value in given.items()}
    for key in ("use_dora", "lora_bias", "fan_in_fan_out"):
        if settings.get(key):
            raise CheckpointError(f"{file}: its header {HEADER} says {key}; accepted: plain LoRA")
    return settings


def write_diffusers(
    adapters: Adapters, path: Path, family: Family, *, fold_scale: bool = False, overwrite: bool = False
) -> Path:
    """Write what `load_lora_weights` loads right at adapter weight 1.0; returns the file.

    Args:
        adapters: to be written.
        path: a folder, or a file ending in `.safetensors`.
        family: of the network.
        fold_scale: multiply B by alpha / rank and say that alpha is the rank, for loaders that take the rank for it
            without looking.
        overwrite: replace an existing file.

    Raises:
        CheckpointError: the file exists, or the family has no names for these adapters in diffusers.
    """
    names = names_in(family, _FORM, f"--save-format {_FORM}")
    nameless = [name for name in adapters if names.theirs(name) is None]
    if nameless:
        raise CheckpointError(
            f"--save-format {_FORM}: {len(nameless)} adapters have no name there: "
            f"{', '.join(map(names.told, nameless))}; accepted: {', '.join(names.flags)}"
        )
    file = path if path.suffix == ".safetensors" else path / FILE
    if fold_scale:
        adapters = {name: a.with_alpha(float(a.rank)) for name, a in adapters.items()}
    tensors = {
        f"{_PART}{_module(name, names)}.lora_{half}.weight": tensor.contiguous()
        for name, a in adapters.items()
        for half, tensor in (("A", a.A), ("B", a.B))
    }
    header = {"format": "pt", HEADER: json.dumps(_peft_header(adapters, names), indent=2, sort_keys=True)}
    write_file(file, overwrite, lambda part: save_file(tensors, part, metadata=header))
    return file


def _peft_header(adapters: Adapters, names: ForeignNames) -> dict[str, Any]:
    """PEFT's LoraConfig of the adapters: the commonest rank and alpha, and patterns for the others."""
    modules = {_module(name, names): a for name, a in adapters.items()}
    rank = Counter(a.rank for a in adapters.values()).most_common(1)[0][0]
    alpha = Counter(a.alpha for a in adapters.values()).most_common(1)[0][0]
    settings = {
        "r": rank,
        "lora_alpha": _whole(alpha),
        "rank_pattern": {f"^{m}": a.rank for m, a in modules.items() if a.rank != rank},
        "alpha_pattern": {f"^{m}": _whole(a.alpha) for m, a in modules.items() if a.alpha != alpha},
        "target_modules": sorted(modules),
        "lora_dropout": 0.0,
        "bias": "none",
        "use_dora": False,
        "use_rslora": False,
        "lora_bias": False,
    }
    return {f"{_PART}{key}": value for key, value in settings.items()}


def _whole(number: float) -> int | float:
    return int(number) if number == int(number) else number

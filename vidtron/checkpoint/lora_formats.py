"""Adapters (LoRA) in the files of SAT, of diffusers and PEFT, and of this trainer: told apart, and read.

All hold the same halves A and B; they differ in names, which a family of models states, and in where alpha stands.
(`formats` does the same for weights.)
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from vidtron.checkpoint import folders
from vidtron.checkpoint.engine import CheckpointError
from vidtron.checkpoint.formats.base import ConversionError
from vidtron.checkpoint.full_state import read_full_state
from vidtron.checkpoint.integrity import inspect, refusals
from vidtron.checkpoint.lora_adapters import Adapters, paired
from vidtron.checkpoint.lora_diffusers import read_diffusers
from vidtron.checkpoint.lora_sat import read_sat
from vidtron.config import cli
from vidtron.config.errors import ConfigurationError
from vidtron.models import registry
from vidtron.models.family import Family
from vidtron.models.layers.lora import is_adapter

Format = Literal["sat", "diffusers", "megatron"]


def format_of(path: Path) -> Format:
    """Which format the adapters at a path have, by what lies there.

    Raises:
        CheckpointError: nothing known.
    """
    if folders.is_complete(path) or folders.latest(path) is not None:
        return "megatron"
    if path.suffix == ".safetensors" or next(path.glob("*.safetensors"), None) is not None:
        return "diffusers"
    if path.suffix == ".pt" or (path / "latest").is_file() or next(path.glob("mp_rank_*.pt"), None) is not None:
        return "sat"
    raise CheckpointError(
        f"{path}: no adapters found; accepted: a safetensors file or a folder with one, a SAT folder or .pt file, a "
        "run folder or iter_* folder of this trainer"
    )


def read(
    path: Path,
    form: Format,
    *,
    family: Family | None = None,
    alpha: float | None = None,
    trust_pickle: bool = False,
    verify: bool = True,
) -> Adapters:
    """The adapters in a file or folder: `read_with_family`, without the family."""
    options = {"alpha": alpha, "trust_pickle": trust_pickle, "verify": verify}
    return read_with_family(path, form, family=family, **options)[1]  # type: ignore[arg-type]


def read_with_family(
    path: Path,
    form: Format,
    *,
    family: Family | None = None,
    alpha: float | None = None,
    trust_pickle: bool = False,
    verify: bool = True,
) -> tuple[Family, Adapters]:
    """The adapters in a file or folder, and of which family of models they are.

    Args:
        path: SAT: a folder with `latest`, one of its tags, or a `.pt` file; diffusers: a safetensors file or a folder
            with one; megatron: a run folder or an `iter_*` folder.
        form: which of them it is.
        family: that they are of; unset: the known one whose names they have. A run tells its own.
        alpha: instead of what the file says.
        trust_pickle: SAT: run whatever code the file names.
        verify: megatron: compare the checkpoint's files with their checksums.

    Raises:
        CheckpointError: it cannot be read, or holds no adapters, unknown ones or halves that do not fit each other,
            or has the names of several families.
    """
    families: Sequence[Family] = registry.families() if family is None else (family,)
    readers = {
        "sat": lambda: read_sat(path, families, trust_pickle),
        "diffusers": lambda: read_diffusers(path, families),
        "megatron": lambda: _read_megatron(path, verify),
    }
    try:
        found, adapters = readers[form]()
    except ConversionError as error:
        raise CheckpointError(str(error)) from error
    if not adapters:
        raise CheckpointError(f"{path}: no adapters in it; accepted: LoRA files in the {form} format")
    if alpha is not None:
        adapters = {name: replace(a, alpha=alpha) for name, a in adapters.items()}
    return found, adapters


def _read_megatron(path: Path, verify: bool) -> tuple[Family, Adapters]:
    folder = path if folders.is_complete(path) else folders.latest(path)
    if folder is None:
        raise CheckpointError(f"{path}: no complete checkpoint; accepted: a run folder or one of its iter_* folders")
    if verify and (errors := refusals([inspect(folder)])):
        raise CheckpointError("\n".join(errors))
    try:
        run = cli.load(folder / folders.CONFIG_FILE, registry.preset, registry.preset_names())
    except ConfigurationError as error:
        raise CheckpointError(f"{folder / folders.CONFIG_FILE}: {error}") from error
    stored = read_full_state(folder, part=is_adapter)
    halves = {tuple(key.rsplit(".", 1)): tensor for key, tensor in stored.items()}
    family = registry.family_of(run.model)
    return family, paired(halves, lambda name, rank: run.adaptation.lora_scale * rank, folder, family)  # type: ignore[arg-type]

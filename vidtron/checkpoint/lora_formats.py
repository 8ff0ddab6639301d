"""Reading adapters (LoRA) from the files of SAT, of diffusers and PEFT, and of this trainer.

All hold the same halves A and B; they differ in names and in where alpha stands.
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from vidtron.checkpoint import folders
from vidtron.checkpoint.engine import CheckpointError
from vidtron.checkpoint.formats.base import ConversionError
from vidtron.checkpoint.full_state import read_full_state
from vidtron.checkpoint.lora_adapters import Adapters, paired
from vidtron.checkpoint.lora_diffusers import read_diffusers
from vidtron.checkpoint.lora_sat import read_sat
from vidtron.config import cli
from vidtron.models import registry
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


def read(path: Path, form: Format, *, alpha: float | None = None, trust_pickle: bool = False) -> Adapters:
    """The adapters in a file or folder.

    Args:
        path: SAT: a folder with `latest`, one of its tags, or a `.pt` file; diffusers: a safetensors file or a folder
            with one; megatron: a run folder or an `iter_*` folder.
        form: which of them it is.
        alpha: instead of what the file says.
        trust_pickle: SAT: run whatever code the file names.

    Raises:
        CheckpointError: it cannot be read, or holds no adapters, unknown ones or halves that do not fit each other.
    """
    readers = {
        "sat": lambda: read_sat(path, trust_pickle),
        "diffusers": lambda: read_diffusers(path),
        "megatron": lambda: _read_megatron(path),
    }
    try:
        adapters = readers[form]()
    except ConversionError as error:
        raise CheckpointError(str(error)) from error
    if not adapters:
        raise CheckpointError(f"{path}: no adapters in it; accepted: LoRA files in the {form} format")
    return adapters if alpha is None else {name: replace(a, alpha=alpha) for name, a in adapters.items()}


def _read_megatron(path: Path) -> Adapters:
    folder = path if folders.is_complete(path) else folders.latest(path)
    if folder is None:
        raise CheckpointError(f"{path}: no complete checkpoint; accepted: a run folder or one of its iter_* folders")
    run = cli.load(folder / folders.CONFIG_FILE, registry.preset, registry.preset_names())
    stored = read_full_state(folder, part=is_adapter)
    halves = {tuple(key.rsplit(".", 1)): tensor for key, tensor in stored.items()}
    return paired(halves, lambda name, rank: run.adaptation.lora_scale * rank, folder)  # type: ignore[arg-type]

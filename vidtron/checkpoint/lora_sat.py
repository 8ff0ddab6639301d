"""Adapters in the files of SAT (sat.model.finetune.lora2).

SAT adapts `attention.query_key_value`, with three pairs, and `attention.dense`, whose own weights become `.original`.
Alpha stands in the YAML of the run; SAT's configurations leave it at 1.
"""

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from vidtron.checkpoint.engine import CheckpointError
from vidtron.checkpoint.lora_adapters import (
    Adapters,
    diffusers_module,
    paired,
    refuse_unknown,
    split,
    write_file,
)
from vidtron.models.cogvideox.lora_names import TARGETS

T = TypeVar("T")

SAT_ALPHA = 1.0
_PREFIX = "model.diffusion_model."
_FILE = "mp_rank_00_model_states.pt"
_KEY = re.compile(r"transformer\.layers\.(\d+)\.(.+)\.matrix_([AB])\.(\d+)")
_BY_SAT = {target.sat: target for target in TARGETS if target.sat is not None}


def read_sat(path: Path, trust_pickle: bool) -> Adapters:
    """The adapters in a SAT folder or `.pt` file. Raises CheckpointError."""
    file = _file_in(path)
    content = _opened(file, trust_pickle)
    module = content.get("module", content)
    halves: dict[tuple[str, str], Tensor] = {}
    unknown = []
    for key, tensor in module.items():
        if ".matrix_A." not in key and ".matrix_B." not in key:
            continue
        match = _KEY.fullmatch(key.removeprefix(_PREFIX))
        target = match and _BY_SAT.get((match[2], int(match[4])))
        if match is None or target is None:
            unknown.append(key)
        else:
            halves[f"decoder.layers.{match[1]}.{target.ours}", match[3]] = tensor
    refuse_unknown(unknown, file)
    alpha = float(content.get("lora_alpha", SAT_ALPHA))
    return paired(halves, lambda name, rank: alpha, file)


def _opened(file: Path, trust_pickle: bool) -> dict[str, Any]:
    try:
        # Files of torch before 1.6 are no zip archives and cannot be mapped.
        return torch.load(file, map_location="cpu", weights_only=not trust_pickle, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        if not zipfile.is_zipfile(file):
            raise CheckpointError(f"{file}: damaged or not a torch file: {error}") from error
        code = ", ".join(torch.serialization.get_unsafe_globals_in_checkpoint(file))
        raise CheckpointError(
            f"{file}: holds more than tensors and plain values, and reading {code or 'it'} could run code; accepted: "
            "--trust-pickle if you trust who wrote it"
        ) from error
    except (RuntimeError, EOFError) as error:
        raise CheckpointError(f"{file}: damaged or not a torch file: {error}") from error


def _file_in(path: Path) -> Path:
    if path.is_file():
        return path
    latest = path / "latest"
    folder = path / latest.read_text().strip() if latest.is_file() else path
    files = sorted(folder.glob("mp_rank_*_model_states.pt"))
    if len(files) != 1:
        raise CheckpointError(
            f"{folder}: {len(files)} files mp_rank_*_model_states.pt; accepted: one (SAT trains LoRA on one "
            "model-parallel rank)"
        )
    return files[0]


def plain_sat(state: Mapping[str, T]) -> dict[str, T]:
    """A SAT LoRA file's weights under the names they have without LoRA, and without the adapters."""
    return {
        key.replace(".original.", "."): value
        for key, value in state.items()
        if ".matrix_A." not in key and ".matrix_B." not in key
    }


def sat_state(adapters: Adapters, base: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Adapters as SAT names them, after `model.diffusion_model.`.

    Args:
        adapters: all of one rank; every layer that has any has those of `TARGETS` that SAT knows, and no others.
        base: the network's weights under SAT's names without LoRA, to which the adapters are added.

    Raises:
        CheckpointError: SAT cannot hold them.
    """
    layers = sorted({split(name)[0] for name in adapters})
    wanted = {
        f"decoder.layers.{layer}.{target.ours}": f"transformer.layers.{layer}.{sat[0]}.matrix_{{}}.{sat[1]}"
        for layer in layers
        for sat, target in _BY_SAT.items()
    }
    problems = [f"{diffusers_module(name)}: SAT has no adapters there" for name in adapters if name not in wanted]
    problems += [f"{diffusers_module(name)}: missing" for name in wanted if name not in adapters]
    ranks = sorted({a.rank for a in adapters.values()})
    if len(ranks) > 1:
        problems.append(f"ranks {', '.join(map(str, ranks))}: SAT has one for all")
    if problems:
        raise CheckpointError(
            f"SAT cannot hold these adapters: {'; '.join(problems)}; accepted: to_q, to_k, to_v and to_out.0, "
            "of one rank"
        )
    state = {
        key.format(half): tensor
        for name, key in wanted.items()
        for half, tensor in (("A", adapters[name].A), ("B", adapters[name].B))
    }
    modules = {key.rsplit(".", 2)[0] for key in wanted.values()}
    for key, tensor in (base or {}).items():
        module, _, leaf = key.rpartition(".")
        state[f"{module}.original.{leaf}" if module in modules else key] = tensor
    return state


def write_sat(
    adapters: Adapters,
    path: Path,
    *,
    base: Mapping[str, Tensor] | None = None,
    fold_scale: bool = False,
    overwrite: bool = False,
) -> float:
    """Write a SAT folder; returns the `lora_alpha` that the run's YAML must have.

    Args:
        adapters: to be written.
        path: gets `latest` and `1/mp_rank_00_model_states.pt`.
        base: the network's weights under SAT's names without LoRA. SAT's inference wants them in the same file.
        fold_scale: multiply B by alpha, so that SAT's default of 1 is right.
        overwrite: replace an existing file.

    Raises:
        CheckpointError: SAT cannot hold these adapters, or the file exists.
    """
    if fold_scale:
        adapters = {name: a.with_alpha(SAT_ALPHA) for name, a in adapters.items()}
    alphas = sorted({a.alpha for a in adapters.values()})
    if len(alphas) > 1:
        raise CheckpointError(
            f"alphas {', '.join(f'{alpha:g}' for alpha in alphas)}: SAT has one for all; accepted: --lora-fold-scale"
        )
    module = {_PREFIX + key: tensor.contiguous() for key, tensor in sat_state(adapters, base).items()}
    # SAT reads `module` alone; alpha is for our own reader.
    content = {"module": module, "lora_alpha": alphas[0]}
    write_file(path / "1" / _FILE, overwrite, lambda part: torch.save(content, part))
    (path / "latest").write_text("1", encoding="utf-8")
    return alphas[0]

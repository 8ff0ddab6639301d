"""Adapters in the files of SAT (sat.model.finetune.lora2).

SAT adapts the map of queries, keys and values, with three pairs, and that behind attention, whose own weights become
`.original`.
Alpha stands in the YAML of the run; SAT's configurations leave it at 1. SAT's inference wants the base weights in the
same file.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidtron.checkpoint.errors import CheckpointError, UnreadableFileError
from vidtron.checkpoint.formats import Content, WeightSource
from vidtron.checkpoint.formats.sat import SatTarget
from vidtron.checkpoint.formats.sat_files import read_parameters, tag_in
from vidtron.checkpoint.lora_adapters import Adapters, paired, write_file
from vidtron.checkpoint.lora_merge import misfits
from vidtron.checkpoint.lora_names import LAYERS, names_in, recognized, split
from vidtron.checkpoint.publishing import published
from vidtron.checkpoint.summary import summarized
from vidtron.checkpoint.tensor_files import TensorSpec
from vidtron.checkpoint.torch_files import load_torch_file
from vidtron.models.family import Family
from vidtron.models.lora_targets import ForeignModule, adapter_names

SAT_ALPHA = 1.0
_PREFIX = "model.diffusion_model."
_FILE = "mp_rank_00_model_states.pt"
_FORM = "sat"
_KEY = re.compile(r"(.+)\.matrix_([AB])\.(\d+)")


def read_sat(path: Path, families: Sequence[Family], trust_pickle: bool) -> tuple[Family, Adapters]:
    """The adapters in a SAT folder or `.pt` file.

    Alpha is what the file says, or else a YAML or model_config.json in its folders.

    Args:
        path: of the file or folder.
        families: that they may be of.
        trust_pickle: run whatever code the file names.

    Raises:
        CheckpointError: it cannot be read, or its tensors are no adapters of these families.
    """
    file = _file_in(path)
    content = _opened(file, trust_pickle)
    module = content.get("module", content) if isinstance(content, Mapping) else None
    if not isinstance(module, Mapping):
        raise CheckpointError(f"{file}: no tensors under `module`; accepted: a file of SAT's trainer")
    matches = {
        key: _KEY.fullmatch(key.removeprefix(_PREFIX))
        for key, tensor in module.items()
        if (".matrix_A." in key or ".matrix_B." in key) and isinstance(tensor, Tensor)
    }
    modules = {key: match and ForeignModule(match[1], int(match[3])) for key, match in matches.items()}
    names, ours = recognized(modules, families, _FORM, file)
    halves = {(ours[key], match[2]): module[key] for key, match in matches.items() if match is not None}
    told = content if "lora_alpha" in content else read_parameters(path, file.parent)
    alpha = told.get("lora_alpha", SAT_ALPHA)
    if not isinstance(alpha, int | float) or not 0 < alpha < math.inf:
        raise CheckpointError(f"{file}: lora_alpha: {alpha!r:.60}; accepted: a finite number above 0")
    alpha = float(alpha)
    return names.family, paired(halves, lambda name, rank: alpha, file, names.family)


def _opened(file: Path, trust_pickle: bool) -> Mapping[str, Any]:
    try:
        content = load_torch_file(file, trust_pickle=trust_pickle, mmap=True)
    except UnreadableFileError as error:
        advice = "; accepted: --trust-pickle if you trust who wrote it" if error.unsafe else ""
        raise CheckpointError(f"{error}{advice}") from error
    module = content.get("module", content) if isinstance(content, Mapping) else None
    if not isinstance(module, Mapping) or not all(isinstance(key, str) for key in module):
        raise CheckpointError(f"{file}: no tensors under `module`; accepted: a file of SAT's trainer")
    return content


def _file_in(path: Path) -> Path:
    if path.is_file():
        return path
    latest = path / "latest"
    folder = path / tag_in(latest) if latest.is_file() else path
    files = sorted(folder.glob("mp_rank_*_model_states.pt"))
    if len(files) != 1:
        raise CheckpointError(
            f"{folder}: {len(files)} files mp_rank_*_model_states.pt; accepted: one (SAT trains LoRA on one "
            "model-parallel rank)"
        )
    return files[0]


def sat_state(adapters: Adapters, family: Family) -> dict[str, Tensor]:
    """Adapters as SAT names them, after `model.diffusion_model.`.

    Args:
        adapters: all of one rank; every layer that has any has those targets that SAT knows, and no others.
        family: of the network.

    Raises:
        CheckpointError: SAT cannot hold them.
    """
    names = names_in(family, _FORM, f"--save-format {_FORM}")
    layers = sorted({split(name)[0] for name in adapters})
    wanted: dict[str, str] = {}
    for name in (f"{LAYERS}.{layer}.{ours}" for layer in layers for ours in names.targets):
        theirs = names.theirs(name)
        assert theirs is not None
        wanted[name] = f"{theirs.name}.matrix_{{}}.{theirs.pair}"
    problems = [f"{names.told(name)}: SAT has no adapters there" for name in adapters if name not in wanted]
    problems += [f"{names.told(name)}: missing" for name in wanted if name not in adapters]
    ranks = sorted({a.rank for a in adapters.values()})
    if len(ranks) > 1:
        problems.append(f"ranks {', '.join(map(str, ranks))}: SAT has one for all")
    if problems:
        raise CheckpointError(
            f"SAT cannot hold these adapters: {'; '.join(problems)}; accepted: {', '.join(names.flags)}, all of them "
            "in a layer, of one rank"
        )
    return {
        key.format(half): tensor.contiguous()
        for name, key in wanted.items()
        for half, tensor in (("A", adapters[name].A), ("B", adapters[name].B))
    }


def _of_one_alpha(adapters: Adapters, fold_scale: bool) -> tuple[Adapters, float]:
    if fold_scale:
        adapters = {name: a.with_alpha(SAT_ALPHA) for name, a in adapters.items()}
    alphas = sorted({a.alpha for a in adapters.values()})
    if len(alphas) > 1:
        raise CheckpointError(
            f"alphas {', '.join(f'{alpha:g}' for alpha in alphas)}: SAT has one for all; accepted: --lora-fold-scale"
        )
    return adapters, alphas[0]


def write_sat(
    adapters: Adapters, path: Path, family: Family, *, fold_scale: bool = False, overwrite: bool = False
) -> float:
    """Write a SAT folder of adapters alone; returns the `lora_alpha` that the run's YAML must have.

    Args:
        adapters: to be written.
        path: gets `latest` and `1/mp_rank_00_model_states.pt`.
        family: of the network.
        fold_scale: multiply B by alpha, so that SAT's default of 1 is right.
        overwrite: replace an existing file.

    Raises:
        CheckpointError: SAT cannot hold these adapters, or the file exists.
    """
    adapters, alpha = _of_one_alpha(adapters, fold_scale)
    module = {_PREFIX + key: tensor for key, tensor in sat_state(adapters, family).items()}
    # SAT reads `module` alone; alpha is for our own reader.
    content = {"module": module, "lora_alpha": alpha}
    write_file(path / "1" / _FILE, overwrite, lambda part: torch.save(content, part))
    (path / "latest").write_text("1", encoding="utf-8")
    return alpha


def write_sat_with_base(
    adapters: Adapters,
    base: WeightSource,
    path: Path,
    *,
    fold_scale: bool = False,
    overwrite: bool = False,
    dtype: torch.dtype | None = None,
    progress: Callable[[list[str]], Iterable[str]] = lambda names: names,
) -> float:
    """Write the SAT folder that SAT's inference loads, adapters and weights; returns its `lora_alpha`.

    Args:
        adapters: to be written, of every layer.
        base: the weights they belong to, of any format; read and written one at a time.
        path: a new folder; gets `model_config.json` besides, which tells alpha.
        fold_scale: multiply B by alpha, so that SAT's default of 1 is right.
        overwrite: replace an existing folder.
        dtype: of the weights; unset: each keeps its own.
        progress: wraps the list of weights, for a progress bar.

    Raises:
        CheckpointError: SAT cannot hold these adapters, or they are not of the base's network.
        FileExistsError: the folder exists.
    """
    adapters, alpha = _of_one_alpha(adapters, fold_scale)
    family = base.family
    state = sat_state(adapters, family)
    problems = misfits(adapters, family, base.network)
    layers = {split(name)[0] for name in adapters}
    everywhere = {split(name)[0] for name in adapter_names(base.rows, family.lora_targets)}
    problems += [
        f"{LAYERS}.{layer}: no adapters; SAT has them in every layer" for layer in sorted(everywhere - layers)
    ]
    if problems:
        raise CheckpointError(
            f"--base {base.path}: {len(problems)} adapters do not fit\n" + "\n".join(summarized(problems))
        )
    letters = family.sizes(base.network)
    specs = {row.ours: TensorSpec(row.our_shape(letters), dtype or base.dtype(row.ours)) for row in base.rows}
    with published(path, overwrite=overwrite) as folder:
        content = Content(base.model, base.network, specs, base.sample, base.extras)
        target = SatTarget(folder, content, adapters=state, lora_alpha=alpha)
        for name in progress(list(specs)):
            target.write(name, base.read(name).to(specs[name].dtype))
        target.finish()
    return alpha

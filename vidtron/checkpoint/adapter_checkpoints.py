"""Checkpoints that hold adapters alone, and the frozen weights they belong to.

Such a checkpoint records where its base weights lay and a checksum of each, so that adapters are never put on others.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from vidtron.checkpoint import folders
from vidtron.checkpoint.ema import EmaState
from vidtron.checkpoint.engine import NO_EMA, CheckpointError, load, load_ema
from vidtron.checkpoint.errors import UnreadableFileError
from vidtron.checkpoint.folders import resolve_checkpoint
from vidtron.checkpoint.formats import configuration_beside, detect_format, holds_weights_only, open_weights
from vidtron.checkpoint.full_state import read_state, tensor_shapes_on_disk
from vidtron.checkpoint.lora_adapters import Adapters
from vidtron.checkpoint.state import Part, bare, everything
from vidtron.checkpoint.weights_into_model import load_weights
from vidtron.models.layers.initialization import global_names
from vidtron.models.layers.lora import is_adapter
from vidtron.parallel import Groups, any_rank, gather_objects

BASE_KEY = "lora_base"
"""Of the plain state: `path` of the base weights (None: the initial weights of the run) and their `checksums`."""

_BITS = {2: torch.int16, 4: torch.int32}
_MODULUS = 2**64


def is_base(name: str) -> bool:
    """Whether a weight, by its name in the model, is none of an adapter's."""
    return not is_adapter(name)


def base_of(path: Path) -> dict[str, Any] | None:
    """Record of the base in a checkpoint of adapters alone; None for any other checkpoint.

    Raises:
        UnreadableFileError: the record is damaged.
    """
    record = read_state(path).get(BASE_KEY)
    if record is None:
        return None
    place, sums = (record.get("path"), record.get("checksums")) if isinstance(record, dict) else (None, None)
    if not isinstance(sums, dict) or not isinstance(place, str | None):
        raise UnreadableFileError(path, f"damaged: its entry `{BASE_KEY}` is no record of base weights")
    return record


def base_folder(path: Path, moved_to: Path | None) -> Path | None:
    """The iter_* folder of a run, or of a conversion, that holds the base weights of a checkpoint of adapters alone.

    None if that is no such checkpoint, or its base has another format, or is the initial weights.
    """
    record = base_of(path)
    place = None if record is None else moved_to or record["path"]
    return None if place is None else resolve_checkpoint(Path(place))


def base_errors(path: str | Path, moved_to: str | Path | None) -> list[str]:
    """Reasons why the base weights of the checkpoint at `path` cannot be found; one message each.

    Args:
        path: an `iter_*` folder.
        moved_to: `--lora-base`, or None.
    """
    path, moved_to = Path(path), None if moved_to is None else Path(moved_to)
    record = base_of(path)
    if record is None:
        return [] if moved_to is None else [_needless(path, moved_to)]
    if moved_to is not None and not _holds_weights(moved_to):
        return [f"--lora-base {moved_to}: not a complete checkpoint; accepted: the folder of the base weights"]
    if moved_to is None and record["path"] is not None and not _holds_weights(Path(record["path"])):
        return [
            f"--load {path}: holds adapters alone, and their base weights are not at {record['path']} any more; "
            "accepted: --lora-base with the folder where they are now"
        ]
    return []


def _holds_weights(path: Path) -> bool:
    return detect_format(path) is not None


def _needless(path: Path, moved_to: Path) -> str:
    return f"--lora-base {moved_to}: {path} does not hold adapters alone; accepted: without --lora-base"


def load_with_base(
    path: str | Path,
    chunks: Sequence[Any],
    optimizer: Any | None,
    scheduler: Any | None,
    groups: Groups,
    ema: EmaState = NO_EMA,
    *,
    moved_to: str | Path | None = None,
) -> dict[str, Any]:
    """Load a checkpoint as `load` does; if it holds adapters alone, the other weights come from their base.

    Args:
        path: an `iter_*` folder.
        chunks: this rank's model chunks, as they were initialised.
        optimizer: None loads the weights only.
        scheduler: None leaves the schedule.
        groups: the run's process groups.
        ema: as for `load`.
        moved_to: where the base weights lie now, if not where the checkpoint says.

    Raises:
        CheckpointError: a checkpoint is not complete or not of this model, or the base weights are missing or others.
    """
    part = _load_base(path, chunks, groups, moved_to)
    return load(Path(path), chunks, optimizer, scheduler, groups, ema, part)


def load_ema_with_base(
    path: str | Path, chunks: Sequence[Any], average: str, groups: Groups, *, moved_to: str | Path | None = None
) -> dict[str, Any]:
    """Load an average as `load_ema` does; if the checkpoint holds adapters alone, the other weights come from their
    base. Raises CheckpointError."""
    return load_ema(Path(path), chunks, average, groups, _load_base(path, chunks, groups, moved_to))


def _load_base(path: str | Path, chunks: Sequence[Any], groups: Groups, moved_to: str | Path | None) -> Part:
    """Load the base of a checkpoint of adapters alone; gives the part that is left for the checkpoint itself."""
    if not folders.is_complete(path):
        raise CheckpointError(f"--load {path}: not a complete checkpoint; accepted: an iter_* folder of a run")
    path, moved_to = Path(path), None if moved_to is None else Path(moved_to)
    errors = base_errors(path, moved_to)
    if errors:
        raise CheckpointError("\n".join(errors))
    record = base_of(path)
    if record is None:
        return everything
    base = moved_to or (None if record["path"] is None else Path(record["path"]))
    if base is not None:
        _load_base_weights(base, path, chunks, groups)
    source = f"the weights at {base}" if base is not None else "the initial weights of this --seed"
    refuse_other_weights(path, source, checksums(chunks, groups), record["checksums"])
    return is_adapter


def _load_base_weights(base: Path, path: Path, chunks: Sequence[Any], groups: Groups) -> None:
    """Load all weights but the adapters', of a run or of SAT, diffusers or a conversion."""
    if folders.is_complete(base) and not holds_weights_only(base):
        load(base, chunks, None, None, groups, part=is_base)
        return
    run = configuration_beside(path)
    network = None if run is None else (run.model, run.network)
    load_weights(open_weights(base, network=network, adapters=True), chunks, groups)


def record_base(path: Path | None, moved_to: Path | None, chunks: Sequence[Any], groups: Groups) -> dict[str, Any]:
    """Plain state that checkpoints of adapters alone keep about the weights that this run does not change.

    Args:
        path: the checkpoint or weights the run started or went on from; None: its weights are the initial ones.
        moved_to: `--lora-base`.
        chunks: this rank's model chunks, loaded.
        groups: the run's process groups.
    """
    record = base_of(path) if path is not None and folders.is_complete(path) else None
    source = moved_to or (path if record is None else record["path"])
    return {BASE_KEY: {"path": source and str(Path(source).resolve()), "checksums": checksums(chunks, groups)}}


def load_start(path: str | Path, chunks: Sequence[Any], groups: Groups, moved_to: str | Path | None = None) -> None:
    """The weights of a checkpoint as the start of another run; adapters that it lacks stay as they were initialised.

    Raises:
        CheckpointError: as `load_with_base`.
    """
    named = {n.name for chunk in chunks for n in global_names(bare(chunk))}
    stored = folders.is_complete(path) and any(map(is_adapter, tensor_shapes_on_disk(Path(path))))
    if stored or not any(map(is_adapter, named)):
        load_with_base(path, chunks, None, None, groups, moved_to=moved_to)
    else:
        load(Path(path), chunks, None, None, groups, part=is_base)


@torch.no_grad()
def take_adapters(adapters: Adapters, scale: float, chunks: Sequence[Any], groups: Groups) -> None:
    """Put adapters of a file into the model's own, each rank its part.

    Args:
        adapters: of the whole network (`lora_formats.read`).
        scale: what the run multiplies a product by; B takes what differs from the file's.
        chunks: this rank's model chunks.
        groups: the run's process groups.

    Raises:
        CheckpointError: the file's adapters are not those of this run; the message names them all.
    """
    mine = {n.name: n.parameter for chunk in chunks for n in global_names(bare(chunk)) if is_adapter(n.name)}
    gathered = gather_objects({name.rsplit(".", 1)[0] for name in mine}, groups.world)
    wanted = {name for names in gathered for name in names}
    problems = [f"{name}: not in the file" for name in sorted(wanted - adapters.keys())]
    problems += [f"{name}: in the file, but not in this run" for name in sorted(adapters.keys() - wanted)]
    parts = {}
    for name, parameter in mine.items():
        module, half = name.rsplit(".", 1)
        if module not in adapters:
            continue
        adapter = adapters[module].with_alpha(scale * adapters[module].rank)
        part = adapter.A if half == "A" else adapter.B
        if getattr(parameter, "tensor_model_parallel", False):
            part = part.chunk(groups.tp.size(), parameter.partition_dim)[groups.tp.rank()]
        if part.shape == parameter.shape:
            parts[name] = part
        else:
            problems.append(f"{name}: shape {list(part.shape)} in the file, {list(parameter.shape)} in this run")
    if any_rank(bool(problems), groups):
        raise CheckpointError(
            f"--lora-load: {len(problems)} adapters differ; accepted: those of --lora-rank and --lora-target-modules\n"
            + "\n".join(problems)
        )
    for name, part in parts.items():
        mine[name].copy_(part)


def checksums(chunks: Sequence[Any], groups: Groups) -> dict[str, int]:
    """Name -> sum of the bits of all elements, taken as integers, of each weight that is none of an adapter's.

    Whole tensors, so the same under every layout and on every rank.
    """
    mine: dict[str, int] = {}
    for chunk in chunks:
        for named in global_names(bare(chunk)):
            parameter = named.parameter
            counts = getattr(parameter, "tensor_model_parallel", False) or groups.tp.rank() == 0
            if is_base(named.name) and counts and groups.dp_cp.rank() == 0:
                mine.setdefault(named.name, sum_of_bits(parameter.detach()))
    everybody = gather_objects((groups.pp.rank(), mine), groups.world)
    totals: dict[str, int] = {}
    stage_of: dict[str, int] = {}
    for stage, part in sorted(everybody, key=lambda entry: entry[0]):
        for name, value in part.items():
            if stage_of.setdefault(name, stage) == stage:  # of what every stage has a copy, the first one's
                totals[name] = (totals.get(name, 0) + value) % _MODULUS
    return totals


def sum_of_bits(tensor: torch.Tensor) -> int:
    """Sum of the bits of a tensor's elements, taken as integers."""
    return int(tensor.contiguous().view(_BITS[tensor.element_size()]).sum(dtype=torch.int64)) % _MODULUS


def refuse_other_weights(path: Path, source: str, now: Mapping[str, int], then: Mapping[str, int]) -> None:
    """Raise CheckpointError if checksums of base weights are not those that the adapters at `path` were trained on."""
    differing = sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))
    if differing:
        shown = ", ".join(differing[:8]) + (", ..." if len(differing) > 8 else "")
        raise CheckpointError(
            f"--load {path}: {source} are not those its adapters were trained on; {len(differing)} of {len(now)} "
            f"tensors differ: {shown}; accepted: the same base weights in the same precision"
        )

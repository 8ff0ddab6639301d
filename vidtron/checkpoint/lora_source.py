"""Weights with LoRA adapters beside them, opened so that the adapters are merged into them or left out."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from vidtron.checkpoint.adapter_checkpoints import base_errors, base_of, refuse_other_weights, sum_of_bits
from vidtron.checkpoint.engine import CheckpointError
from vidtron.checkpoint.folders import resolve_checkpoint
from vidtron.checkpoint.formats import configuration_beside, detect_format, open_weights
from vidtron.checkpoint.formats.base import DTYPES, ConversionError, WeightSource, refuse
from vidtron.checkpoint.formats.megatron import MegatronSource, check_kind, first_line
from vidtron.checkpoint.formats.sat import SatSource
from vidtron.checkpoint.integrity import inspect, refusals
from vidtron.checkpoint.lora_adapters import Adapter, Adapters, paired
from vidtron.checkpoint.lora_formats import read
from vidtron.checkpoint.lora_merge import beside, merged, misfits
from vidtron.checkpoint.summary import summarized
from vidtron.config.run import RunConfig
from vidtron.models.layers.checkpoint_rules import Row

LoraMode = Literal["merge", "drop"]
LORA_MODES: tuple[LoraMode, ...] = get_args(LoraMode)


class MergedSource(WeightSource):
    """Weights with their adapters in them."""

    def __init__(self, weights: WeightSource, adapters: Mapping[str, Adapter], dtype: torch.dtype | None):
        """
        Args:
            weights: beside which the adapters stand.
            adapters: of the same network.
            dtype: of the sums; unset: that of each weight.
        """
        self.format, self.path, self.model = weights.format, weights.path, weights.model
        self.network, self.sample, self.extras = weights.network, weights.sample, weights.extras
        self.notes, self.warnings = weights.notes, weights.warnings
        self.weights, self.adapters, self._dtype = weights, adapters, dtype

    @property
    def places(self) -> list[Path]:
        return self.weights.places

    def rule_row(self, ours: str) -> Row:
        return self.weights.rule_row(ours)

    def adapted(self, ours: str) -> bool:
        """Whether adapters are merged into our tensor."""
        return bool(beside(ours, self.adapters))

    def dtype(self, ours: str) -> torch.dtype:
        own = self.weights.dtype(ours)
        return (self._dtype or own) if self.adapted(ours) else own

    def read(self, ours: str) -> Tensor:
        return merged(ours, self.weights.read(ours), self.adapters, self.network, self.dtype(ours))

    def parts(self, ours: str) -> dict[str, Tensor]:
        if not self.adapted(ours):
            return self.weights.parts(ours)
        row = self.rule_row(ours)
        return dict(zip(row.theirs, row.rule.to_theirs(self.read(ours), self.network), strict=True))


class _StoredAdapters(Mapping[str, Adapter]):
    """Adapters that are read when they are asked for."""

    def __init__(self, announced: Adapters, read: Callable[[str], Tensor]):
        """
        Args:
            announced: the adapters, their halves without data.
            read: a half by its name.
        """
        self.announced, self._read = announced, read

    def __getitem__(self, name: str) -> Adapter:
        return replace(self.announced[name], A=self._read(f"{name}.A"), B=self._read(f"{name}.B"))

    def __contains__(self, name: object) -> bool:
        return name in self.announced

    def __iter__(self) -> Iterator[str]:
        return iter(self.announced)

    def __len__(self) -> int:
        return len(self.announced)


def open_merged(
    path: Path,
    format: str | None = None,
    *,
    model: str | None = None,
    ema: bool | str = False,
    dtype: str | None = None,
    trust_pickle: bool = False,
    lora: LoraMode = "merge",
    lora_base: Path | None = None,
    lora_alpha: float | None = None,
    verify: bool = True,
) -> WeightSource:
    """Open weights for reading, with the adapters that stand beside them.

    Args:
        path: of a checkpoint, perhaps of adapters alone.
        format: told by its marker files unless given.
        model: preset of the network; else the checkpoint tells.
        ema: as `open_weights`; of adapters too.
        dtype: key of DTYPES that the weights are to have. Merged weights have it at once, rounded from the sum; fp32
            takes the fp32 weights of a bf16 run's optimizer where there are any.
        trust_pickle: open `.pt` files that need more than tensors and plain values.
        lora: merge adapters, or drop them.
        lora_base: where the base weights of a checkpoint of adapters alone lie, if not where it says.
        lora_alpha: of the adapters, instead of what the checkpoint says.
        verify: compare the files of a run's checkpoint, and of its base, with their checksums.

    Raises:
        ConversionError: as `open_weights`; or the adapters do not fit, or their base weights are missing or others.
    """
    form = format or detect_format(path)
    folder = resolve_checkpoint(path) if form == "megatron" else None
    if folder is None and lora_base is not None:
        raise ConversionError(f"--lora-base: {path} is no checkpoint of adapters alone; accepted: without --lora-base")
    fp32 = dtype == "fp32"
    notes = [] if folder is None or not verify else _verified(folder)
    try:
        base = None if folder is None else _base(folder, model, lora_base, trust_pickle, verify)
        if base is None:
            source = open_weights(
                path, form, model=model, ema=ema, fp32=fp32, trust_pickle=trust_pickle, adapters=True
            )
        else:
            preset = None if model is None else (model, base.network)
            source = MegatronSource(path, preset=preset, ema=ema, fp32=fp32, base=base)
            source.notes.append(f"base weights of the adapters: {base.path}")
        source.notes += notes
        if not source.adapter_shapes:
            if lora_alpha is not None:
                raise ConversionError(f"--lora-alpha: {path} has no adapters; accepted: without --lora-alpha")
            return source
        if lora == "drop":
            source.notes.append(f"LoRA adapters left out ({len(source.adapter_shapes):,} tensors)")
            return source
        return _merged(source, lora_alpha, dtype, trust_pickle)
    except CheckpointError as error:
        raise ConversionError(str(error)) from error


def _verified(folder: Path) -> list[str]:
    """What the user should know of an undamaged checkpoint's files. Raises ConversionError: it is damaged."""
    inspection = inspect(folder)
    if errors := refusals([inspection]):
        raise ConversionError("\n".join(errors))
    return inspection.remarks(folder)


def _base(
    folder: Path, model: str | None, moved_to: Path | None, trust_pickle: bool, verify: bool
) -> WeightSource | None:
    """The base weights of a checkpoint of adapters alone, proved to be those; None for any other checkpoint."""
    check_kind(folder)
    try:
        errors, record = base_errors(folder, moved_to), base_of(folder)
    except ConversionError:
        raise
    except Exception as error:  # damaged pickles raise nearly everything
        raise ConversionError(f"{folder}: its plain state (common.pt) cannot be read: {first_line(error)}") from error
    if errors:
        raise ConversionError("\n".join(errors))
    if record is None:
        return None
    place = moved_to or (None if record["path"] is None else Path(record["path"]))
    if place is None:
        raise ConversionError(
            f"--load {folder}: its adapters stand beside the initial weights of a --seed, which are in no file; "
            "accepted: --lora-base with a checkpoint of those weights, or a run without --save-lora-only"
        )
    run = _run(folder)
    base_folder = resolve_checkpoint(place)
    if verify and base_folder is not None:
        _verified(base_folder)
    base = open_weights(place, model=model, network=(run.model, run.network), trust_pickle=trust_pickle, adapters=True)
    trained_in = torch.bfloat16 if run.precision.bf16 else torch.float32
    now = {row.ours: sum_of_bits(base.read(row.ours).to(trained_in)) for row in base.rows}
    refuse_other_weights(folder, f"the weights at {place}", now, record["checksums"])
    return base


def _run(folder: Path) -> RunConfig:
    run = configuration_beside(folder)
    if run is None:
        raise ConversionError(f"--load {folder}: no config.yaml in it, which tells about the adapters")
    return run


def _merged(source: WeightSource, alpha: float | None, dtype: str | None, trust_pickle: bool) -> MergedSource:
    family = source.family
    shapes: Mapping[str, Adapter]
    adapters: Mapping[str, Adapter]
    if isinstance(source, SatSource):
        file = source.files.files[0]
        shapes = adapters = read(file, "sat", family=family, alpha=alpha, trust_pickle=trust_pickle)
    else:
        assert isinstance(source, MegatronSource)
        scale = 1.0 if alpha is not None else _run(source.folder).adaptation.lora_scale
        halves = {
            (name.rpartition(".")[0], name[-1]): torch.empty(shape, device="meta")
            for name, shape in source.adapter_shapes.items()
        }
        announced = paired(halves, lambda name, rank: scale * rank if alpha is None else alpha, source.folder, family)
        shapes, adapters = announced, _StoredAdapters(announced, source.read)
    problems = misfits(shapes, family, source.network)
    refuse(source.path, len(problems), summarized(problems), f" the network ({source.model})")
    kinds = sorted({(a.rank, a.alpha) for a in shapes.values()})
    told = ", ".join(f"rank {rank}, alpha {alpha:g}" for rank, alpha in kinds)
    source.notes.append(f"{len(shapes):,} LoRA adapters merged into the weights ({told})")
    return MergedSource(source, adapters, None if dtype is None else DTYPES[dtype])

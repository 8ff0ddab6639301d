"""diffusers' folders: config.json and safetensors, alone or as `transformer/` of a pipeline."""

import dataclasses
import json
import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vidtron.checkpoint.formats.base import (
    ConversionError,
    Extras,
    WeightSource,
    WeightTarget,
    first_line,
    refuse,
    same_dtype,
)
from vidtron.checkpoint.formats.fit import misfits
from vidtron.checkpoint.tensor_files import SafetensorsFile, TensorSpec
from vidtron.models.cogvideox.checkpoint_names import diffusers_rows
from vidtron.models.cogvideox.checkpoint_tables import SampleSize
from vidtron.models.cogvideox.config import CogVideoXConfig
from vidtron.models.cogvideox.foreign_configs import (
    DIFFUSERS_FINAL_NORM_EPS,
    closest_preset,
    from_diffusers,
    to_diffusers,
)
from vidtron.models.layers.checkpoint_rules import Row

CONFIG_FILE = "config.json"
CLASS_NAME = "CogVideoXTransformer3DModel"
_STEM = "diffusion_pytorch_model"
SHARD_BYTES = 10 * 10**9
_TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
SIZES_IN_CONFIG = ("num_layers", "num_attention_heads", "attention_head_dim")
"""What a config.json must say for its network to be that of its weights, unless that is diffusers' default."""
_OLDEST_VERSION = "0.32.0"
"""The first diffusers with CogVideoX 1.5."""


def transformer_folder(path: Path) -> Path | None:
    """The folder of the network: `path` itself or its `transformer/`; None if neither is one."""
    return next((f for f in (path, path / "transformer") if _read_config(f).get("_class_name") == CLASS_NAME), None)


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG_FILE
    if not file.is_file():
        return {}
    return _read_json(file)


def _read_json(file: Path) -> dict[str, Any]:
    """Raises ConversionError: the file is no JSON object."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConversionError(f"{file}: not JSON: {error}") from error
    except RecursionError as error:
        raise ConversionError(f"{file}: not JSON of a configuration: nested too deeply") from error
    if not isinstance(content, dict):
        raise ConversionError(f"{file}: holds {type(content).__name__}; accepted: an object of names and values")
    return content


def _weight_files(folder: Path) -> list[Path]:
    """The file, or the shards of its index; a variant (fp16 ...) where it is the only one."""
    indexes = sorted(folder.glob(f"{_STEM}*.safetensors.index*.json"))
    plain = folder / f"{_STEM}.safetensors"
    if plain.is_file():
        return [plain]
    if len(indexes) == 1:
        names = _shard_names(indexes[0])
        absent = [name for name in names if not (folder / name).is_file()]
        if absent:
            raise ConversionError(f"{indexes[0]}: shards are missing: {', '.join(absent)}")
        return [folder / name for name in names]
    variants = sorted(folder.glob(f"{_STEM}*.safetensors"))
    if len(variants) == 1 and not indexes:
        return variants
    raise ConversionError(
        f"--load {folder}: {len(variants)} weight files; accepted: {plain.name}, or one with an index"
    )


def _shard_names(index: Path) -> list[str]:
    """The files that an index names, beside it."""
    shards = _read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ConversionError(f"{index}: no weight_map; accepted: an object of tensors and their files")
    names = list(dict.fromkeys(map(str, shards.values())))
    odd = [name for name in names if not re.fullmatch(r"[\w.-]+\.safetensors", name) or len(name) > 250]
    if odd:
        raise ConversionError(f"{index}: names {odd[0][:60]!r}; accepted: names of safetensors files beside it")
    return names


class DiffusersSource(WeightSource):
    """The weights of a diffusers folder."""

    format = "diffusers"

    def __init__(self, path: Path, *, preset: tuple[str, CogVideoXConfig] | None):
        """
        Args:
            path: a folder with config.json, or a pipeline's.
            preset: name and network of --model; else config.json tells.

        Raises:
            ConversionError: it is damaged, or its tensors are not the network's: sizes, layers and tensors that differ
                are told.
        """
        self.path = path
        folder = transformer_folder(path)
        if folder is None:
            raise ConversionError(
                f"--load {path}: no {CONFIG_FILE} of a {CLASS_NAME}; accepted: its folder, or a pipeline's folder "
                "with transformer/"
            )
        config = _read_config(folder)
        try:
            self.network, self.sample = from_diffusers(config)
        except ValueError as error:
            raise ConversionError(f"{folder / CONFIG_FILE}: {error}") from error
        if preset is not None:
            self.network = dataclasses.replace(preset[1], final_norm_eps=DIFFUSERS_FINAL_NORM_EPS)
        self.model = preset[0] if preset is not None else closest_preset(self.network)
        self._rows = {row.ours: row for row in diffusers_rows(self.network)}
        self._open: dict[str, Any] = {}
        self._specs: dict[str, TensorSpec] = {}
        self._odd_types: list[str] = []
        for file in _weight_files(folder):
            self._add(file)
        shapes = {name: spec.shape for name, spec in self._specs.items()}
        count, lines = misfits(diffusers_rows, self.network, self.model, shapes, more=self._odd_types)
        untold = [name for name in SIZES_IN_CONFIG if config.get(name) is None]
        if untold and preset is None:
            lines.append(f"{CONFIG_FILE} does not say {', '.join(untold)}: diffusers' defaults hold")
        refuse(folder, count, lines, f" the network ({self.model})")
        self.extras = Extras.load(folder)
        self.notes, self.warnings = [], []

    def _add(self, file: Path) -> None:
        try:
            handle = safe_open(file, framework="pt")
            for name in handle.keys():  # noqa: SIM118, not a mapping
                if name in self._open:
                    raise ConversionError(f"{file}: holds {name}, which another of the folder's files holds too")
                part = handle.get_slice(name)
                self._open[name] = handle
                kind = part.get_dtype()
                if kind not in _TYPES:
                    self._odd_types.append(f"{name}: {kind}; accepted: {', '.join(_TYPES)}")
                self._specs[name] = TensorSpec(tuple(part.get_shape()), _TYPES.get(kind, torch.float32))
        except (SafetensorError, OverflowError, MemoryError) as error:
            raise ConversionError(
                f"{file}: cannot be read, it is truncated or damaged: {first_line(error)}"
            ) from error

    def rule_row(self, ours: str) -> Row:
        return self._rows[ours]

    def parts(self, ours: str) -> dict[str, Tensor]:
        names = self._rows[ours].theirs
        try:
            return {name: self._open[name].get_tensor(name) for name in names}
        except (SafetensorError, RuntimeError) as error:
            raise ConversionError(f"{self.path}: {names[0]} cannot be read: {first_line(error)}") from error

    def dtype(self, ours: str) -> torch.dtype:
        return same_dtype({name: self._specs[name].dtype for name in self._rows[ours].theirs})


class DiffusersTarget(WeightTarget):
    """Writes a folder for `CogVideoXTransformer3DModel.from_pretrained`."""

    def __init__(
        self,
        folder: Path,
        network: CogVideoXConfig,
        specs: Mapping[str, TensorSpec],
        *,
        sample: SampleSize,
        extras: Extras,
        shard_bytes: int = SHARD_BYTES,
    ):
        """
        Args:
            folder: an empty one.
            network: its configuration.
            specs: our name -> shape and type.
            sample: what config.json says of the clips.
            extras: kept in a file that diffusers does not look at.
            shard_bytes: weights beyond this go into several files.
        """
        self.folder, self.network = folder, network
        self._rows = {row.ours: row for row in diffusers_rows(network)}
        announced: dict[str, TensorSpec] = {}
        for ours, row in self._rows.items():
            whole = torch.empty(specs[ours].shape, device="meta")
            for name, tensor in zip(row.theirs, row.rule.to_theirs(whole, network), strict=True):
                announced[name] = TensorSpec(tuple(tensor.shape), specs[ours].dtype)
        self._files: dict[str, SafetensorsFile] = {}
        shards = _shards(announced, shard_bytes)
        weight_map: dict[str, str] = {}
        for number, names in enumerate(shards, start=1):
            suffix = f"-{number:05d}-of-{len(shards):05d}" if len(shards) > 1 else ""
            file_name = f"{_STEM}{suffix}.safetensors"
            file = SafetensorsFile(folder / file_name, {name: announced[name] for name in names})
            self._files |= dict.fromkeys(names, file)
            weight_map |= dict.fromkeys(names, file_name)
        if len(shards) > 1:
            total = sum(spec.nbytes for spec in announced.values())
            content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
            index = folder / f"{_STEM}.safetensors.index.json"
            index.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        config = {**to_diffusers(network, sample), "_diffusers_version": _version()}
        self._config = json.dumps(config, indent=2, sort_keys=True) + "\n"
        dataclasses.replace(extras, sample=None).save(folder)  # config.json has the sample's size

    def write(self, ours: str, tensor: Tensor) -> None:
        row = self._rows[ours]
        for name, part in zip(row.theirs, row.rule.to_theirs(tensor, self.network), strict=True):
            self._files[name].write(name, part)

    def finish(self) -> None:
        for file in dict.fromkeys(self._files.values()):
            file.close()
        (self.folder / CONFIG_FILE).write_text(self._config, encoding="utf-8")


def _version() -> str:
    try:
        return version("diffusers")
    except PackageNotFoundError:
        return _OLDEST_VERSION


def _shards(specs: Mapping[str, TensorSpec], limit: int) -> list[list[str]]:
    """Names in sorted order, cut where a file would exceed `limit` bytes."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name in sorted(specs):
        if shards[-1] and filled + specs[name].nbytes > limit:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += specs[name].nbytes
    return shards

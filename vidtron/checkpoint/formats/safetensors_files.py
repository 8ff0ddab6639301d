"""Weights in safetensors files with a configuration, whatever holds the two: read and written tensor by tensor."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vidtron.checkpoint.formats.base import (
    Content,
    ConversionError,
    Extras,
    Preset,
    WeightSource,
    WeightTarget,
    first_line,
    refuse,
    same_dtype,
    with_settings,
)
from vidtron.checkpoint.formats.fit import misfits
from vidtron.checkpoint.tensor_files import SafetensorsFile, TensorSpec
from vidtron.config.network import NetworkConfig
from vidtron.models.family import Family
from vidtron.models.foreign import ConfiguredModel, SampleSize
from vidtron.models.layers.checkpoint_rules import Row, Shape

SUFFIX = ".safetensors"
CONFIG_FILE = "config.json"
_TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


class SafetensorsFiles:
    """The tensors of one or several files."""

    def __init__(self, files: Sequence[Path]):
        """
        Args:
            files: of one network.

        Raises:
            ConversionError: one is damaged, or two hold the same tensor.
        """
        self.metadata: dict[str, str] = {}
        """Of the headers."""
        self.specs: dict[str, TensorSpec] = {}
        self.odd_types: list[str] = []
        """A message for each tensor of a type that is none of a weight's."""
        self._open: dict[str, Any] = {}
        for file in files:
            with _readable(file):
                self._add(file)

    @property
    def shapes(self) -> dict[str, Shape]:
        """Name -> shape of all tensors."""
        return {name: spec.shape for name, spec in self.specs.items()}

    def _add(self, file: Path) -> None:
        handle = safe_open(file, framework="pt")
        self.metadata |= handle.metadata() or {}
        for name in handle.keys():  # noqa: SIM118, not a mapping
            if name in self._open:
                raise ConversionError(f"{file}: holds {name}, which another of the folder's files holds too")
            part = handle.get_slice(name)
            self._open[name] = handle
            kind = part.get_dtype()
            if kind not in _TYPES:
                self.odd_types.append(f"{name}: {kind}; accepted: {', '.join(_TYPES)}")
            self.specs[name] = TensorSpec(tuple(part.get_shape()), _TYPES.get(kind, torch.float32))

    def read(self, name: str) -> Tensor:
        """A tensor of the files, mapped into memory."""
        return self._open[name].get_tensor(name)


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OverflowError, MemoryError) as error:
        raise ConversionError(f"{file}: cannot be read, it is truncated or damaged: {first_line(error)}") from error


class SafetensorsSource(WeightSource):
    """A network's weights in safetensors."""

    def __init__(
        self,
        format: str,
        path: Path,
        place: Path,
        files: SafetensorsFiles,
        known: tuple[Family, ConfiguredModel],
        told: tuple[NetworkConfig, SampleSize | None],
        preset: Preset | None,
        remarks: Sequence[str] = (),
    ):
        """
        Args:
            format: its name.
            path: that was asked for.
            place: folder or file of the weights.
            files: with the tensors.
            known: the family of the network, and how it stands in the format.
            told: the network by its configuration, and the clips.
            preset: name and network of --model, instead.
            remarks: lines for where the tensors do not fit a network that the configuration told.

        Raises:
            ConversionError: the tensors are not the network's: sizes, layers and tensors that differ are told.
        """
        family, model = known
        self.format, self.path, self._files = format, path, files
        self.network, sample = told
        if preset is not None:
            self.network = with_settings(preset[1], model.settings)
        self.model = preset[0] if preset is not None else family.closest_preset(self.network)
        self.sample = sample or family.default_sample(self.network)
        self._rows = {row.ours: row for row in model.rows(self.network)}
        count, lines = misfits(model.rows, self.network, self.model, files.shapes, more=files.odd_types)
        refuse(place, count, [*lines, *(remarks if preset is None else ())], f" the network ({self.model})")
        self.extras = Extras.load(place) if place.is_dir() else Extras()
        self.notes, self.warnings = [], []

    def rule_row(self, ours: str) -> Row:
        return self._rows[ours]

    def parts(self, ours: str) -> dict[str, Tensor]:
        names = self._rows[ours].theirs
        try:
            return {name: self._files.read(name) for name in names}
        except (SafetensorError, RuntimeError) as error:
            raise ConversionError(f"{self.path}: {names[0]} cannot be read: {first_line(error)}") from error

    def dtype(self, ours: str) -> torch.dtype:
        return same_dtype({name: self._files.specs[name].dtype for name in self._rows[ours].theirs})


class SafetensorsTarget(WeightTarget):
    """Writes a network's tensors into one file, or into several where one would be too large."""

    def __init__(
        self,
        folder: Path,
        content: Content,
        rows: Sequence[Row],
        *,
        stem: str,
        metadata: Mapping[str, str] = MappingProxyType({}),
        file_bytes: int | None = None,
    ):
        """
        Args:
            folder: an empty one.
            content: what is to be written.
            rows: the format's table of its network.
            stem: of the files' names.
            metadata: of the header.
            file_bytes: weights beyond this go into several files, with an index; unset: never.
        """
        self.folder, self.network = folder, content.network
        self._rows = {row.ours: row for row in rows}
        announced: dict[str, TensorSpec] = {}
        for ours, row in self._rows.items():
            spec = content.specs[ours]
            whole = torch.empty(spec.shape, device="meta")
            for name, tensor in zip(row.theirs, row.rule.to_theirs(whole, content.network), strict=True):
                announced[name] = TensorSpec(tuple(tensor.shape), spec.dtype)
        self._files: dict[str, SafetensorsFile] = {}
        shards = _shards(announced, file_bytes)
        weight_map: dict[str, str] = {}
        for number, names in enumerate(shards, start=1):
            suffix = f"-{number:05d}-of-{len(shards):05d}" if len(shards) > 1 else ""
            file_name = f"{stem}{suffix}{SUFFIX}"
            file = SafetensorsFile(folder / file_name, {name: announced[name] for name in names}, metadata)
            self._files |= dict.fromkeys(names, file)
            weight_map |= dict.fromkeys(names, file_name)
        if len(shards) > 1:
            total = sum(spec.nbytes for spec in announced.values())
            index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
            (folder / f"{stem}{SUFFIX}.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    def write(self, ours: str, tensor: Tensor) -> None:
        row = self._rows[ours]
        for name, part in zip(row.theirs, row.rule.to_theirs(tensor, self.network), strict=True):
            self._files[name].write(name, part)

    def finish(self) -> None:
        for file in dict.fromkeys(self._files.values()):
            file.close()


def _shards(specs: Mapping[str, TensorSpec], limit: int | None) -> list[list[str]]:
    """Names in sorted order, cut where a file would exceed `limit` bytes."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name in sorted(specs):
        if limit is not None and shards[-1] and filled + specs[name].nbytes > limit:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += specs[name].nbytes
    return shards


def told_by(
    model: ConfiguredModel, config: Mapping[str, Any], shapes: Mapping[str, Shape], file: Path
) -> tuple[NetworkConfig, SampleSize | None]:
    """The network that a configuration tells. Raises ConversionError, naming its file: it tells none."""
    try:
        network, sample = model.read_config(config, shapes)
        return with_settings(network, model.settings), sample
    except ValueError as error:
        raise ConversionError(f"{file}: {error}") from error
    except (LookupError, TypeError, ArithmeticError) as error:
        raise ConversionError(
            f"{file}: the network cannot be told ({type(error).__name__}: {first_line(error)}); accepted: --model, if "
            "the file is not damaged"
        ) from error


def weight_files(folder: Path, stem: str) -> list[Path]:
    """The file, or the shards of its index; a variant (fp16 ...) where it is the only one.

    Raises:
        ConversionError: they are not there, or not all.
    """
    indexes = sorted(folder.glob(f"{stem}*{SUFFIX}.index*.json"))
    plain = folder / f"{stem}{SUFFIX}"
    if plain.is_file():
        return [plain]
    if len(indexes) == 1:
        names = _shard_names(indexes[0])
        absent = [name for name in names if not (folder / name).is_file()]
        if absent:
            raise ConversionError(f"{indexes[0]}: shards are missing: {', '.join(absent)}")
        return [folder / name for name in names]
    variants = sorted(folder.glob(f"{stem}*{SUFFIX}"))
    if len(variants) == 1 and not indexes:
        return variants
    raise ConversionError(
        f"--load {folder}: {len(variants)} weight files; accepted: {plain.name}, or one with an index"
    )


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ConversionError: the file holds none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConversionError(f"{file}: not JSON: {error}") from error
    except RecursionError as error:
        raise ConversionError(f"{file}: not JSON of a configuration: nested too deeply") from error
    if not isinstance(content, dict):
        raise ConversionError(f"{file}: holds {type(content).__name__}; accepted: an object of names and values")
    return content


def _shard_names(index: Path) -> list[str]:
    """The files that an index names, beside it."""
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ConversionError(f"{index}: no weight_map; accepted: an object of tensors and their files")
    names = list(dict.fromkeys(map(str, shards.values())))
    odd = [name for name in names if not re.fullmatch(r"[\w.-]+\.safetensors", name) or len(name) > 250]
    if odd:
        raise ConversionError(f"{index}: names {odd[0][:60]!r}; accepted: safetensors files in its own folder")
    return names

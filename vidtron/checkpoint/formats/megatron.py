"""vidtron's own checkpoints: megatron-core's torch_dist format in `iter_*` folders, with the run's configuration."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidtron.checkpoint import folders, manifest
from vidtron.checkpoint.ema_names import ema_key, ema_of_key
from vidtron.checkpoint.formats.base import (
    Content,
    ConversionError,
    Extras,
    Preset,
    Reading,
    WeightSource,
    WeightTarget,
    check_floating,
    first_line,
    refuse,
    with_settings,
)
from vidtron.checkpoint.formats.fit import misfits
from vidtron.checkpoint.full_state import read_state
from vidtron.checkpoint.summary import summarized
from vidtron.checkpoint.torch_dist_files import TorchDistReader, TorchDistWriter
from vidtron.config import cli, yaml_file
from vidtron.config.errors import ConfigurationError
from vidtron.config.network import NetworkConfig
from vidtron.config.run import RunConfig
from vidtron.models import registry
from vidtron.models.family import Family
from vidtron.models.foreign import SampleSize, settings_in
from vidtron.models.layers.checkpoint_rules import Row
from vidtron.models.layers.lora import is_adapter
from vidtron.models.layers.specs import keeps_extra_state

_BESIDE = ("optimizer.", "ema.")
"""Prefixes of what stands beside the weights: the optimizer's state, and averages."""
_MASTERS = ("optimizer.state.fp32_param.", "optimizer.state.param.")
"""fp32 weights of the optimizer of a bf16 run, without and with --use-distributed-optimizer."""
NAME = "megatron"


class MegatronFormat:
    """vidtron's own checkpoints."""

    name = NAME

    def detects(self, path: Path) -> bool:
        return folders.resolve_checkpoint(path) is not None

    def open(self, path: Path, preset: Preset | None, reading: Reading) -> "MegatronSource":
        return MegatronSource(path, preset=preset, ema=reading.ema, fp32=reading.fp32)

    def network(self, model: str, network: NetworkConfig) -> NetworkConfig:
        return network

    def target(self, folder: Path, content: Content, options: Mapping[str, Any]) -> "MegatronTarget":
        return MegatronTarget(folder, content)

    def file_for(self, save: Path) -> str | None:
        return None

    def read_back(self, folder: Path, content: Content) -> "MegatronSource":
        return self.open(folder, None, Reading())  # a run folder tells its network itself


class MegatronSource(WeightSource):
    """The weights of a run's checkpoint, whatever layout wrote it."""

    format = NAME

    def __init__(
        self,
        path: Path,
        *,
        preset: Preset | None,
        ema: bool | str = False,
        fp32: bool = False,
        base: WeightSource | None = None,
    ):
        """
        Args:
            path: an iter_* folder, or a run folder.
            preset: name and network of --model; else the checkpoint's configuration tells.
            ema: read averages: the name of one, or True where there is but one. What was not trained has none.
            fp32: take the optimizer's fp32 weights where there are any.
            base: the weights of a checkpoint that holds LoRA adapters alone.

        Raises:
            ConversionError: it is damaged, or its tensors are not the network's: sizes, layers and tensors that differ
                are told.
        """
        self.path, self._base = path, base
        folder = folders.resolve_checkpoint(path)
        if folder is None:
            raise ConversionError(f"--load {path}: no complete checkpoint; accepted: a run folder or an iter_* folder")
        self.folder = folder
        check_kind(folder)
        run = configuration_beside(folder)
        if run is None and preset is None:
            raise ConversionError(f"--load {folder}: no {folders.CONFIG_FILE} in it; accepted: --model")
        self.network, self.model = self._network(run, preset)
        self.extras = Extras.load(folder)
        self.sample = self._sample(run)
        try:
            read_state(folder)  # a checkpoint of which a part cannot be read is not converted
            self._reader = TorchDistReader(folder)
        except Exception as error:  # damaged pickles raise nearly everything
            raise ConversionError(f"--load {folder}: {first_line(error)}") from error
        self._rows = {row.ours: row for row in self.rows}
        self._specs = self._reader.specs
        self._own = {key: spec.shape for key, spec in self._specs.items() if not key.startswith(_BESIDE)}
        self.adapter_shapes = {key: shape for key, shape in self._own.items() if is_adapter(key)}
        if base is None and self.adapter_shapes and self.adapter_shapes.keys() == self._own.keys():
            raise ConversionError(
                f"--load {folder}: holds LoRA adapters alone; accepted: weights (tools/convert_checkpoint.py merges "
                "the adapters into theirs)"
            )
        self._keys = {name: name for name in (*(self._rows if base is None else ()), *self.adapter_shapes)}
        self.notes: list[str] = []
        self.warnings: list[str] = []
        if ema:
            self._take_average(ema)
        elif fp32:
            self._take_masters()
        self._check()

    @staticmethod
    def _network(run: RunConfig | None, preset: Preset | None) -> tuple[NetworkConfig, str]:
        if preset is None:
            assert run is not None
            return run.network, run.model
        name, network = preset
        if run is None or type(run.network) is not type(network):
            return network, name
        # What formats fix, a run may have taken over from them.
        return with_settings(network, settings_in(run.network, registry.family_of(name).foreign)), name

    def _sample(self, run: RunConfig | None) -> SampleSize:
        if self.extras.sample is not None:
            return SampleSize(*self.extras.sample)
        if run is None:
            return self.family.default_sample(self.network)
        return self.family.sample_of(dataclasses.replace(run, network=self.network))

    def _take_average(self, ema: bool | str) -> None:
        averages = sorted({average for key in self._specs if (average := ema_of_key(key)) is not None})
        asked = [average for average in averages if ema is True or average == ema]
        if len(asked) != 1:
            flag = "--ema" if ema is True else f"--ema {ema}"
            if not averages:
                raise ConversionError(f"{flag}: {self.folder} has no averages of the weights")
            raise ConversionError(
                f"{flag}: {self.folder} has the averages {', '.join(averages)}; accepted: one of them by name"
            )
        found = {name: key for name in self._keys if (key := ema_key(asked[0], name)) in self._specs}
        self.notes.append(f"average of the weights: {asked[0]}")
        if untrained := len(self._keys) - len(found):
            self.notes.append(f"{untrained:,} tensors were not trained and have no average: taken as they are")
        self._keys |= found

    def _take_masters(self) -> None:
        found = {
            ours: prefix + ours
            for prefix in _MASTERS
            for ours in self._keys
            if prefix + ours in self._specs
            and self._specs[prefix + ours].dtype == torch.float32
            and ours in self._specs
            and self._specs[ours].dtype != torch.float32
        }
        if found:
            self._keys |= found
            self.notes.append(f"fp32 weights of the optimizer: {len(found):,} tensors")

    def _check(self) -> None:
        found = {key: shape for key, shape in self._own.items() if key not in self.adapter_shapes}
        found |= {name: self._specs[key].shape for name, key in self._keys.items() if name in found}
        more = check_floating((key, self._specs[key].dtype) for key in self._keys.values() if key in self._specs)
        if self._base is None:
            count, lines = misfits(self.family.rows, self.network, self.model, found, more=more)
        else:
            problems = [*(f"{name}: unknown" for name in found), *more]
            count, lines = len(problems), summarized(problems)
        refuse(self.folder, count, lines, f" the network ({self.model})")

    @property
    def places(self) -> list[Path]:
        return [self.path, *([] if self._base is None else self._base.places)]

    def rule_row(self, ours: str) -> Row:
        return self._rows[ours]

    def parts(self, ours: str) -> dict[str, Tensor]:
        return {ours: self.read(ours)}

    def read(self, ours: str) -> Tensor:
        """Our tensor, or a half of an adapter, whole."""
        if self._base is not None and ours not in self._keys:
            return self._base.read(ours)
        try:
            return self._reader.read(self._keys[ours])
        except Exception as error:  # damaged pickles raise nearly everything
            raise ConversionError(f"{self.folder}: {ours}: {first_line(error)}") from error

    def dtype(self, ours: str) -> torch.dtype:
        if self._base is not None and ours not in self._keys:
            return self._base.dtype(ours)
        return self._specs[self._keys[ours]].dtype


def configuration_beside(folder: Path) -> RunConfig | None:
    """Configuration of the run that wrote a checkpoint; None without the file. Raises ConversionError: unreadable."""
    path = folder / folders.CONFIG_FILE
    if not path.is_file():
        return None
    try:
        return cli.load(path, registry.preset, registry.preset_names())
    except ConfigurationError as error:
        raise ConversionError(f"{path}: {error}") from error


def run_configuration(model: str, network: NetworkConfig, sample: SampleSize) -> RunConfig:
    """The configuration written beside converted weights: a preset's, with this network and clips of their size."""
    run = cli.parse(["--model", model], registry.preset, registry.preset_names())
    run.network = network
    clip = registry.family_of(model).clip_for(run, sample)
    run.data.num_frames, run.data.height, run.data.width = clip
    return run


class MegatronTarget(WeightTarget):
    """Writes a run folder with one checkpoint of weights alone, from which a run can start in any layout."""

    def __init__(self, folder: Path, content: Content):
        """
        Args:
            folder: an empty one.
            content: what is to be written; the sizes of other formats' tables, and its extras, are kept beside.
        """
        self.run_folder = folder
        self.folder = folder / folders.folder_name(0)
        self.folder.mkdir()
        sample, extras = content.sample, content.extras
        self._configuration = yaml_file.dump(run_configuration(content.model, content.network, sample))
        Extras(extras.tensors, extras.dtypes, (sample.frames, sample.height, sample.width)).save(self.folder)
        states = extra_states(registry.family_of(content.model), content.network)
        self._writer = TorchDistWriter(self.folder, content.specs, states)

    def write(self, ours: str, tensor: Tensor) -> None:
        self._writer.write(ours, tensor)

    def finish(self) -> None:
        state: dict[str, Any] = {"iteration": 0, "consumed_samples": 0, WEIGHTS_ONLY: True}
        self._writer.finish({"state": state, manifest.MANIFEST_KEY: folders.MANIFEST_FILE})
        for folder in (self.folder, self.run_folder):
            (folder / folders.CONFIG_FILE).write_text(self._configuration, encoding="utf-8")
        manifest.write(self.folder, self._writer.checksums, finite=self._writer.finite)


KIND_FILE = "metadata.json"
WEIGHTS_ONLY = "weights_only"
"""Entry of the plain state of a checkpoint that no run has written: there is no optimizer to continue with."""


def holds_weights_only(path: str | Path) -> bool:
    """Whether an iter_* folder was made by a conversion, without an optimizer to continue with.

    Raises:
        ConversionError: its plain state is damaged.
    """
    check_kind(path := Path(path))
    try:
        return bool(read_state(path).get(WEIGHTS_ONLY))
    except Exception as error:  # damaged pickles raise nearly everything
        raise ConversionError(f"{path}: its plain state (common.pt) cannot be read: {first_line(error)}") from error


def check_kind(folder: Path) -> None:
    """Raise ConversionError if `metadata.json` of an iter_* folder is damaged, or of another kind of checkpoint."""
    file = folder / KIND_FILE
    try:
        kind = json.loads(file.read_text(encoding="utf-8"))["sharded_backend"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ConversionError(
            f"{file}: truncated or damaged: {first_line(error)}; accepted: what megatron-core writes"
        ) from error
    if kind != "torch_dist":
        raise ConversionError(f"{file}: says {str(kind)[:60]!r}; accepted: torch_dist")


def extra_states(family: Family, network: NetworkConfig) -> list[str]:
    """Keys of the objects that mcore's linear layers store beside their weights, one for the whole layer."""
    modules = [row.ours.removesuffix(".weight") for row in family.rows(network) if row.ours.endswith(".weight")]
    return [f"{module}._extra_state/shard_0_1" for module in modules if keeps_extra_state(module)]

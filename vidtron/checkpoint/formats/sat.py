"""SAT's checkpoints: `latest`, and TAG/mp_rank_00_model_states.pt for each model-parallel rank."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from vidtron.checkpoint.formats.base import (
    DTYPES,
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
    same_dtype,
    with_settings,
)
from vidtron.checkpoint.formats.fit import layers_found, misfits, nearly
from vidtron.checkpoint.formats.sat_files import LATEST, NAME, ORIGINAL, SAT_PREFIX, SatFiles, is_sat
from vidtron.checkpoint.formats.weight_format import ForeignFormat, only
from vidtron.checkpoint.summary import ranges
from vidtron.checkpoint.tensor_files import PtFile, TensorSpec
from vidtron.config.network import NetworkConfig
from vidtron.models import registry
from vidtron.models.family import Family
from vidtron.models.foreign import SatCheckpoint
from vidtron.models.layers.checkpoint_rules import Row, Shape, SplitAlong, bits_equal


class SatFormat(ForeignFormat):
    """SAT's checkpoints: `mp_rank_*` files of pickled tensors."""

    name = NAME
    kind = SatCheckpoint

    def detects(self, path: Path) -> bool:
        return path.exists() and is_sat(path)

    def open(self, path: Path, preset: Preset | None, reading: Reading) -> "SatSource":
        files = SatFiles(path, ema=bool(reading.ema), trust_pickle=reading.trust_pickle)
        if preset is not None:
            return SatSource(path, files, (registry.family_of(preset[0]), self.model_of(preset[0])), preset)
        known = self.known()
        return SatSource(path, files, only([k for k in known if k[1].recognizes(files.names)], known, path), preset)

    def target(self, folder: Path, content: Content, options: Mapping[str, Any]) -> "SatTarget":
        ranks, version = options.get("sat_model_parallel_size", 1), options.get("sat_version")
        return SatTarget(folder, content, ranks=ranks, version=version)

    @property
    def versions(self) -> tuple[str, ...]:
        """Versions of upstream's code for which files can be written."""
        return tuple(dict.fromkeys(version for _, model in self.known() for version in model.versions))


SAT = SatFormat()


class SatSource(WeightSource):
    """The weights of a SAT checkpoint."""

    format = NAME

    def __init__(self, path: Path, files: SatFiles, known: tuple[Family, SatCheckpoint], preset: Preset | None):
        """
        Args:
            path: that was asked for.
            files: of the checkpoint.
            known: the family of the network, and how it stands in SAT's files.
            preset: name and network of --model; else the files tell.

        Raises:
            ConversionError: its tensors are not the network's: sizes, layers and tensors that differ are told.
        """
        family, self._model = known
        self.path = path
        self.warnings: list[str] = []
        self.files = files
        self.adapter_shapes = self._adapter_shapes()
        local_shapes = {name: tuple(self.files.parts(name)[0].shape) for name in self.files.names}
        parameters = self.files.parameters

        def read(name: str) -> Tensor:
            return self.files.parts(name)[0]

        self._refuse_gaps(local_shapes)
        network: NetworkConfig
        try:
            if preset is not None:
                network = with_settings(preset[1], self._model.settings)
                self.sample = self._model.sample_in(network, local_shapes, read, parameters)
            else:
                told, self.sample = self._model.read_tensors(local_shapes, read, parameters)
                network = with_settings(told, self._model.settings)
        except ValueError as error:
            raise ConversionError(f"--load {self.files.folder}: {error}") from error
        except (LookupError, RuntimeError, ArithmeticError) as error:
            raise ConversionError(
                f"--load {self.files.folder}: the network cannot be told by its tensors ({first_line(error)}); "
                "accepted: --model, if the file is not damaged"
            ) from error
        self.network = network
        self.model = preset[0] if preset is not None else family.closest_preset(network)
        self._version = self._model.version_in(local_shapes)
        self._rows = {row.ours: row for row in self._rows_of(network)}
        whole_shapes = self._check(local_shapes)
        if preset is None and "num_layers" not in parameters:
            self._tell_guess(whole_shapes)
        self.extras = self._keep_tables()
        self.notes = [f"kept aside: {part} ({len(names):,} tensors)" for part, names in self.files.aside.items()]
        if len(self.files.ranks) > 1:
            self.notes.append(f"joined the parts of {len(self.files.ranks)} model-parallel ranks")

    def _adapter_shapes(self) -> dict[str, Shape]:
        adapters = self.files.adapters[0]
        if adapters and len(self.files.ranks) > 1:
            raise ConversionError(
                f"--load {self.files.folder}: LoRA adapters in the files of {len(self.files.ranks)} model-parallel "
                "ranks; accepted: one (SAT trains LoRA on one)"
            )
        if adapters and not self.files.names:
            raise ConversionError(
                f"--load {self.files.folder}: LoRA adapters without the weights that they belong to; accepted: both "
                "in one file (tools/convert_lora.py --base)"
            )
        return {name: tuple(tensor.shape) for name, tensor in adapters.items()}

    def _rows_of(self, network: NetworkConfig) -> list[Row]:
        return self._model.rows(network, self._version)

    def _refuse_gaps(self, local_shapes: Mapping[str, Shape]) -> None:
        """Whatever the depth, a layer between others is not left out."""
        present = sorted(layers_found(self._model.rows(self._model.one_layer()), local_shapes))
        gaps = [range(a + 1, b) for a, b in zip([-1, *present], present, strict=False) if b > a + 1]
        if gaps:
            told = ", ".join(f"{gap[0]} to {gap[-1]}" if len(gap) > 1 else str(gap[0]) for gap in gaps)
            raise ConversionError(
                f"--load {self.files.folder}: has layers {ranges(present)}, so layer {told} is missing; accepted: "
                "files with every layer"
            )

    def _tell_guess(self, whole_shapes: Mapping[str, Shape]) -> None:
        """Say that nothing but the tensors tells the network: layers missing at the end do not show."""
        network = self.network
        self.warnings.append(
            f"{self.files.folder}: no configuration in it and no --model: the network is told by its tensors: "
            f"{self._model.described(network)}"
        )
        whole = nearly(self.model, network, whole_shapes, self._rows_of)
        if whole is not None:
            depth = registry.preset(whole).network.num_layers
            absent = ranges(range(network.num_layers, depth))
            self.warnings.append(
                f"{self.files.folder}: has all sizes of {whole} but {network.num_layers} layers instead of {depth}. "
                f"If layer {absent} should be in it, what is written is not the network that was trained; --model "
                f"{whole} refuses files without all layers"
            )

    def _joined_shapes(self, local_shapes: Mapping[str, Shape]) -> tuple[dict[str, Shape], list[str]]:
        """Whole shapes, and a message for each tensor whose parts cannot be joined (it keeps the first rank's)."""
        found, problems = dict(local_shapes), []
        for row in self._rows.values():
            for name in row.theirs:
                if name in found and isinstance(row.ranks, SplitAlong):
                    try:
                        parts = [p.to("meta") for p in self.files.parts(name)]
                        found[name] = tuple(row.ranks.join(parts).shape)
                    except (ValueError, RuntimeError, IndexError):
                        problems.append(f"{name}: the parts of the model-parallel ranks do not fit together")
        return found, problems

    def _check(self, local_shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        """The shapes of the whole tensors. Raises ConversionError: they are not the network's."""
        found, more = self._joined_shapes(local_shapes)
        names = [name for row in self._rows.values() for name in row.theirs if name in found]
        tables = self._model.table_names(self.network)
        more += [f"{name}: unknown" for name in sorted(set(self.files.foreign))]
        more += check_floating((name, self.files.parts(name)[0].dtype) for name in names)
        fit = misfits(self._rows_of, self.network, self.model, found, tables, more)
        refuse(self.files.folder, *fit, f" the network ({self.model})")
        return found

    def _keep_tables(self) -> Extras:
        extras = Extras(sample=(self.sample.frames, self.sample.height, self.sample.width))
        try:
            computed = self._model.tables_like(self.network, self.sample, self.files.names)
        except (RuntimeError, ValueError) as error:
            raise ConversionError(
                f"--load {self.files.folder}: no tables of positions can be made for this network: {first_line(error)}"
            ) from error
        for name, table in computed.items():
            stored = self.files.parts(name)[0]
            if bits_equal(stored, table.to(stored.dtype)):
                if stored.dtype != torch.float32:
                    extras.dtypes[name] = _key(name, stored.dtype)
                continue
            problem = stored.shape != table.shape or not self._model.is_table(stored, table)
            if name not in self._model.unread_tables and problem:
                raise ConversionError(
                    f"{name}: not the fixed table of clips of {self.sample}, which vidtron's network computes"
                )
            extras.tensors[name] = stored.clone()
        return extras

    def rule_row(self, ours: str) -> Row:
        return self._rows[ours]

    def parts(self, ours: str) -> dict[str, Tensor]:
        row = self._rows[ours]
        joined = {}
        for name in row.theirs:
            try:
                joined[name] = row.ranks.join(self.files.parts(name))
            except (ValueError, RuntimeError) as error:
                raise ConversionError(f"{self.files.folder}: {name}: {first_line(error)}") from error
        return joined

    def dtype(self, ours: str) -> torch.dtype:
        names = self._rows[ours].theirs
        return same_dtype(
            {f"{name} of rank {r}": t.dtype for name in names for r, t in enumerate(self.files.parts(name))}
        )


def _key(name: str, dtype: torch.dtype) -> str:
    for key, value in DTYPES.items():
        if value == dtype:
            return key
    raise ConversionError(f"{name}: {dtype}; accepted: {', '.join(DTYPES)}")


class SatTarget(WeightTarget):
    """Writes what upstream's code loads with strict names."""

    def __init__(
        self,
        folder: Path,
        content: Content,
        *,
        ranks: int = 1,
        version: str | None = None,
        tag: str = "1",
        adapters: Mapping[str, Tensor] = MappingProxyType({}),
        lora_alpha: float = 1.0,
    ):
        """
        Args:
            folder: an empty one.
            content: what is to be written.
            ranks: model-parallel ranks that will load it.
            version: of upstream's code; the network's own unless given.
            tag: name of the folder inside.
            adapters: halves of LoRA adapters, all of one rank, by SAT's names; `ranks` is 1.
            lora_alpha: of the adapters.

        Raises:
            ConversionError: the network has no names in SAT's files, or does not divide by the ranks, or the version
                cannot build it.
        """
        self._model: SatCheckpoint = SAT.model_of(content.model)
        self.folder, self.network, self.tag, self.ranks = folder, content.network, tag, ranks
        network, specs = content.network, content.specs
        try:
            self.version = self._model.version_of(network, version)
        except ValueError as error:
            raise ConversionError(str(error)) from error
        if ranks < 1 or network.num_attention_heads % ranks:
            raise ConversionError(
                f"--sat-model-parallel-size {ranks}: {network.num_attention_heads} attention heads do not divide by it"
            )
        self.sample = content.sample
        self._rows = {row.ours: row for row in self._model.rows(network, self.version)}
        self._tables = self._model.tables(network, content.sample, self.version)
        self._finish_tables(content)
        self._adapters, self._lora_alpha = adapters, lora_alpha
        self._adapted = {name.rsplit(".", 2)[0] for name in adapters}
        self.notes = [
            f"{name}: zeros (upstream's code wants it and never reads it)"
            for name in self._tables
            if name in self._model.unread_tables and name not in content.extras.tensors
        ]
        announced: dict[str, TensorSpec] = {}
        for ours, row in self._rows.items():
            whole = torch.empty(specs[ours].shape, device="meta")
            for name, tensor in zip(row.theirs, row.rule.to_theirs(whole, network), strict=True):
                part = row.ranks.split(tensor, ranks)[0]
                announced[self._stored(name)] = TensorSpec(tuple(part.shape), specs[ours].dtype)
        for name, tensor in (*self._tables.items(), *adapters.items()):
            announced[SAT_PREFIX + name] = TensorSpec(tuple(tensor.shape), tensor.dtype)
        (folder / tag).mkdir()
        self._files = [
            PtFile(folder / tag / f"mp_rank_{rank:02d}_model_states.pt", announced) for rank in range(ranks)
        ]

    def _finish_tables(self, content: Content) -> None:
        extras = content.extras
        for name in self._tables:
            if name in extras.tensors:
                self._tables[name] = extras.tensors[name]
            elif name in extras.dtypes:
                self._tables[name] = self._tables[name].to(DTYPES[extras.dtypes[name]])
            if name in self._model.unread_tables:
                like = content.specs[self._model.unread_tables[name]]
                self._tables[name] = self._tables[name].to(like.dtype)

    def _stored(self, name: str) -> str:
        """Name of a weight in the file; one with adapters moves down."""
        module, _, leaf = name.rpartition(".")
        return SAT_PREFIX + (f"{module}{ORIGINAL}{leaf}" if module in self._adapted else name)

    def write(self, ours: str, tensor: Tensor) -> None:
        row = self._rows[ours]
        for name, whole in zip(row.theirs, row.rule.to_theirs(tensor, self.network), strict=True):
            for file, part in zip(self._files, row.ranks.split(whole, self.ranks), strict=True):
                file.write(self._stored(name), part)

    def finish(self) -> None:
        for file in self._files:
            for name, tensor in (*self._tables.items(), *self._adapters.items()):
                file.write(SAT_PREFIX + name, tensor)
            file.close()
        rank = next((tensor.shape[0] for name, tensor in self._adapters.items() if ".matrix_A." in name), None)
        lora = None if rank is None else {"r": rank, "lora_alpha": self._lora_alpha}
        content = self._model.write_parameters(self.network, self.sample, self.version, lora)
        (self.folder / "model_config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        (self.folder / LATEST).write_text(self.tag, encoding="utf-8")

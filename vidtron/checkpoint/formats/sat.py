"""SAT's checkpoints: `latest`, and TAG/mp_rank_00_model_states.pt for each model-parallel rank."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from vidtron.checkpoint.formats.base import (
    DTYPES,
    ConversionError,
    Extras,
    WeightSource,
    WeightTarget,
    check_floating,
    first_line,
    refuse,
    same_dtype,
)
from vidtron.checkpoint.formats.fit import layers_found, misfits, nearly
from vidtron.checkpoint.formats.sat_files import LATEST, ORIGINAL, SatFiles
from vidtron.checkpoint.summary import ranges
from vidtron.checkpoint.tensor_files import PtFile, TensorSpec
from vidtron.models.cogvideox import foreign_configs
from vidtron.models.cogvideox.checkpoint_names import (
    FREQS,
    POS_EMBEDDING,
    SAT_PREFIX,
    SAT_TABLES,
    UNUSED_POSITIONS,
    sat_rows,
)
from vidtron.models.cogvideox.checkpoint_tables import SampleSize, sat_tables
from vidtron.models.cogvideox.config import CogVideoXConfig
from vidtron.models.cogvideox.foreign_configs import SAT_FINAL_NORM_EPS, closest_preset
from vidtron.models.cogvideox.sat_config import to_sat
from vidtron.models.layers.checkpoint_rules import Row, Shape, SplitAlong, bits_equal

VERSIONS = ("1.0", "1.5")
"""Of upstream's SAT code: tag v1.0, and main since CogVideoX 1.5."""


def version_of(network: CogVideoXConfig, asked: str | None) -> str:
    """Which of upstream's codes a file is written for.

    Raises:
        ConversionError: the asked one cannot build the network.
    """
    natural = "1.0" if network.patch_size_t == 1 else "1.5"
    if asked == "1.0" and natural == "1.5":
        raise ConversionError("--sat-version 1.0: that code has no patches of several frames; accepted: 1.5")
    if asked == "1.5" and network.position == "sincos":
        raise ConversionError(
            "--sat-version 1.5: that code cannot build a network with sincos positions; accepted: 1.0"
        )
    return asked or natural


class SatSource(WeightSource):
    """The weights of a SAT checkpoint."""

    format = "sat"

    def __init__(
        self, path: Path, *, preset: tuple[str, CogVideoXConfig] | None, ema: bool = False, trust_pickle: bool = False
    ):
        """
        Args:
            path: a folder with `latest`, or of one tag, or a file.
            preset: name and network of --model; else the files tell.
            ema: read the averages, from the folder TAG-ema.
            trust_pickle: open files that need more than weights_only=True allows.

        Raises:
            ConversionError: it is damaged, or its tensors are not the network's: sizes, layers and tensors that differ
                are told.
        """
        self.path = path
        self.warnings: list[str] = []
        self.files = SatFiles(path, ema=ema, trust_pickle=trust_pickle)
        self.adapter_shapes = self._adapter_shapes()
        local_shapes = {name: tuple(self.files.parts(name)[0].shape) for name in self.files.names}
        known = self.files.parameters

        def read(name: str) -> Tensor:
            return self.files.parts(name)[0]

        self._refuse_gaps(local_shapes)
        if preset is not None:
            network = dataclasses.replace(preset[1], final_norm_eps=SAT_FINAL_NORM_EPS)
        try:
            if preset is not None:
                self.sample = foreign_configs.sample_of_sat(network, local_shapes, read, known)
            else:
                network, self.sample = foreign_configs.from_sat(local_shapes, read, known)
        except ValueError as error:
            raise ConversionError(f"--load {self.files.folder}: {error}") from error
        except (LookupError, RuntimeError, ArithmeticError) as error:
            raise ConversionError(
                f"--load {self.files.folder}: the network cannot be told by its tensors ({first_line(error)}); "
                "accepted: --model, if the file is not damaged"
            ) from error
        self.network = network
        self.model = preset[0] if preset is not None else closest_preset(network)
        self._flat = len(local_shapes.get("mixins.patch_embed.proj.weight", ())) == 2
        self._rows = {row.ours: row for row in self._rows_of(network)}
        whole_shapes = self._check(local_shapes)
        if preset is None and "num_layers" not in known:
            self._tell_guess(whole_shapes)
        self.extras = self._keep_tables("1.0" if FREQS[0] in local_shapes else "1.5")
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

    def _rows_of(self, network: CogVideoXConfig) -> list[Row]:
        return sat_rows(network, flat_patches=self._flat)

    def _refuse_gaps(self, local_shapes: Mapping[str, Shape]) -> None:
        """Whatever the depth, a layer between others is not left out."""
        present = sorted(layers_found(sat_rows(CogVideoXConfig(num_layers=1)), local_shapes))
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
            f"{network.num_layers} layers, hidden size {network.hidden_size}, {network.num_attention_heads} heads, "
            f"{network.in_channels} channels in and {network.out_channels} out, patches of {network.patch_size_t} x "
            f"{network.patch_size} x {network.patch_size}, {network.position} positions, {network.text_length} text "
            "tokens"
        )
        whole = nearly(network, whole_shapes, self._rows_of)
        if whole is not None:
            depth = foreign_configs.PRESETS[whole].network.num_layers
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
        tables = {*SAT_TABLES, POS_EMBEDDING} if self.network.position == "sincos" else set(SAT_TABLES)
        if self.network.position == "sincos":
            tables -= set(FREQS)
        more += [f"{name}: unknown" for name in sorted(set(self.files.foreign))]
        more += check_floating((name, self.files.parts(name)[0].dtype) for name in names)
        fit = misfits(self._rows_of, self.network, self.model, found, tables, more)
        refuse(self.files.folder, *fit, f" the network ({self.model})")
        return found

    def _keep_tables(self, version: str) -> Extras:
        extras = Extras(sample=(self.sample.frames, self.sample.height, self.sample.width))
        if not {*SAT_TABLES, POS_EMBEDDING} & set(self.files.names):
            return extras
        try:
            computed = sat_tables(self.network, self.sample, version=version)
        except (RuntimeError, ValueError) as error:
            raise ConversionError(
                f"--load {self.files.folder}: no tables of positions can be made for this network: {first_line(error)}"
            ) from error
        for name, table in computed.items():
            if name not in self.files.names:
                continue
            stored = self.files.parts(name)[0]
            if bits_equal(stored, table.to(stored.dtype)):
                if stored.dtype != torch.float32:
                    extras.dtypes[name] = _key(name, stored.dtype)
                continue
            problem = stored.shape != table.shape or not foreign_configs.is_table(stored, table)
            if name != UNUSED_POSITIONS and problem:
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
        network: CogVideoXConfig,
        specs: Mapping[str, TensorSpec],
        *,
        sample: SampleSize,
        extras: Extras,
        ranks: int = 1,
        version: str | None = None,
        tag: str = "1",
        adapters: Mapping[str, Tensor] = MappingProxyType({}),
        lora_alpha: float = 1.0,
    ):
        """
        Args:
            folder: an empty one.
            network: its configuration.
            specs: our name -> shape and type.
            sample: size of the position tables.
            extras: what a SAT file that the weights come from held besides.
            ranks: model-parallel ranks that will load it.
            version: of upstream's code; its own unless given.
            tag: name of the folder inside.
            adapters: halves of LoRA adapters, all of one rank, by SAT's names; `ranks` is 1.
            lora_alpha: of the adapters.

        Raises:
            ConversionError: the network does not divide by the ranks, or the version cannot build it.
        """
        self.folder, self.network, self.tag, self.ranks = folder, network, tag, ranks
        self.version = version_of(network, version)
        if ranks < 1 or network.num_attention_heads % ranks:
            raise ConversionError(
                f"--sat-model-parallel-size {ranks}: {network.num_attention_heads} attention heads do not divide by it"
            )
        self.sample = sample
        self._rows = {row.ours: row for row in sat_rows(network, flat_patches=self.version == "1.5")}
        self._tables = sat_tables(network, sample, version=self.version)
        self._finish_tables(extras, specs["final.norm.weight"].dtype)
        self._adapters, self._lora_alpha = adapters, lora_alpha
        self._adapted = {name.rsplit(".", 2)[0] for name in adapters}
        self.notes = []
        if UNUSED_POSITIONS in self._tables and UNUSED_POSITIONS not in extras.tensors:
            self.notes.append(f"{UNUSED_POSITIONS}: zeros (upstream's code wants it and never reads it)")
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

    def _finish_tables(self, extras: Extras, dtype: torch.dtype) -> None:
        for name in self._tables:
            if name in extras.tensors:
                self._tables[name] = extras.tensors[name]
            elif name in extras.dtypes:
                self._tables[name] = self._tables[name].to(DTYPES[extras.dtypes[name]])
            if name == UNUSED_POSITIONS:
                self._tables[name] = self._tables[name].to(dtype)

    def _stored(self, name: str) -> str:
        """What the file calls a weight; one with adapters moves down."""
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
        content = to_sat(self.network, self.sample, self.version, lora)
        (self.folder / "model_config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        (self.folder / LATEST).write_text(self.tag, encoding="utf-8")

"""CogVideoX in the files of SAT's trainer, of upstream's code for 1.0 and for 1.5."""

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from vidtron.models.cogvideox import sat_network, sat_tables
from vidtron.models.cogvideox.checkpoint_names import FREQS, POS_EMBEDDING, SAT_TABLES, UNUSED_POSITIONS, sat_rows
from vidtron.models.cogvideox.config import CogVideoXConfig
from vidtron.models.cogvideox.sat_config import sat_parameters, to_sat
from vidtron.models.foreign import ReadTensor, SampleSize, SatCheckpoint
from vidtron.models.layers.checkpoint_rules import Row, Shape

_PATCHES = "mixins.patch_embed.proj.weight"


class CogVideoXInSat(SatCheckpoint[CogVideoXConfig]):
    """Names, tables and configurations of upstream's `dit_video_concat`."""

    versions = ("1.0", "1.5")
    """Of upstream's SAT code: tag v1.0, and main since CogVideoX 1.5."""
    settings = sat_network.SETTINGS
    unread_tables = {UNUSED_POSITIONS: "final.norm.weight"}

    def rows(self, network: CogVideoXConfig, version: str | None = None) -> list[Row]:
        return sat_rows(network, flat_patches=version == "1.5")

    def version_of(self, network: CogVideoXConfig, asked: str | None) -> str:
        natural = "1.0" if network.patch_size_t == 1 else "1.5"
        if asked == "1.0" and natural == "1.5":
            raise ValueError("--sat-version 1.0: that code has no patches of several frames; accepted: 1.5")
        if asked == "1.5" and network.position == "sincos":
            raise ValueError(
                "--sat-version 1.5: that code cannot build a network with sincos positions; accepted: 1.0"
            )
        return asked or natural

    def version_in(self, shapes: Mapping[str, Shape]) -> str:
        return "1.5" if len(shapes.get(_PATCHES, ())) == 2 else "1.0"

    def recognizes(self, names: Collection[str]) -> bool:
        return any(name.startswith("mixins.adaln_layer.") for name in names)

    def one_layer(self) -> CogVideoXConfig:
        return CogVideoXConfig(num_layers=1)

    def parameters(self, content: Any) -> dict[str, Any]:
        return sat_parameters(content)

    def read_tensors(
        self, shapes: Mapping[str, Shape], read: ReadTensor, parameters: Mapping[str, Any]
    ) -> tuple[CogVideoXConfig, SampleSize]:
        return sat_network.from_sat(shapes, read, parameters)

    def sample_in(
        self, network: CogVideoXConfig, shapes: Mapping[str, Shape], read: ReadTensor, parameters: Mapping[str, Any]
    ) -> SampleSize:
        return sat_network.sample_of_sat(network, shapes, read, parameters)

    def described(self, network: CogVideoXConfig) -> str:
        return (
            f"{network.num_layers} layers, hidden size {network.hidden_size}, {network.num_attention_heads} heads, "
            f"{network.in_channels} channels in and {network.out_channels} out, patches of {network.patch_size_t} x "
            f"{network.patch_size} x {network.patch_size}, {network.position} positions, {network.text_length} text "
            "tokens"
        )

    def write_parameters(
        self, network: CogVideoXConfig, sample: SampleSize, version: str, lora: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        return to_sat(network, sample, version, lora)

    def table_names(self, network: CogVideoXConfig) -> Collection[str]:
        return (UNUSED_POSITIONS, POS_EMBEDDING) if network.position == "sincos" else SAT_TABLES

    def tables(self, network: CogVideoXConfig, sample: SampleSize, version: str) -> dict[str, Tensor]:
        return sat_tables.sat_tables(network, sample, version=version)

    def tables_like(self, network: CogVideoXConfig, sample: SampleSize, names: Collection[str]) -> dict[str, Tensor]:
        if not set(self.table_names(network)) & set(names):
            return {}
        # The tables of 1.5 can be as large as its clips: made only where the file has them.
        tables = self.tables(network, sample, "1.0" if FREQS[0] in names else "1.5")
        return {name: table for name, table in tables.items() if name in names}

    def is_table(self, stored: Tensor, computed: Tensor) -> bool:
        return sat_tables.is_table(stored, computed)

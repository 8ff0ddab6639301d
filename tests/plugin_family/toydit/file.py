"""The family's own files, as another program might have them: names, kernels and tables unlike vidtron's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from toydit import names
from toydit.config import ToyConfig
from vidtron.config.network import NetworkConfig
from vidtron.models.foreign import SampleSize, SingleFile
from vidtron.models.layers.checkpoint_rules import QkvSeparate, Row, Rule, Same, Shape, expand

_RENAMED = {
    "decoder.layers.*": "blocks.*",
    "self_attention.linear_qkv": "attn",
    "self_attention.linear_proj": "attn.out",
    "self_attention": "attn",
    "cross_attention.kv": "text_kv",
    "cross_attention": "attn_text",
    "decoder.final_layernorm": "last_norm",
    "texts.": "captions.",
}
_WITNESS = "blocks.0.attn.q.kernel"


@dataclass(frozen=True)
class Transposed:
    """Linear maps as [in, out], under another rule."""

    rule: Rule

    def to_ours(self, theirs: Sequence[Tensor], network: NetworkConfig) -> Tensor:
        return self.rule.to_ours([tensor.T for tensor in theirs], network)

    def to_theirs(self, ours: Tensor, network: NetworkConfig) -> tuple[Tensor, ...]:
        return tuple(tensor.T for tensor in self.rule.to_theirs(ours, network))


@dataclass(frozen=True)
class RowsApart:
    """A table [1, n, D] as n vectors."""

    def to_ours(self, theirs: Sequence[Tensor], network: NetworkConfig) -> Tensor:
        return torch.stack(tuple(theirs))[None]

    def to_theirs(self, ours: Tensor, network: NetworkConfig) -> tuple[Tensor, ...]:
        return ours[0].unbind()


def _row(row: Row) -> Row:
    module, _, kind = row.ours.rpartition(".")
    for ours, theirs in _RENAMED.items():
        module = module.replace(ours, theirs)
    if kind == "table":
        return Row(row.ours, tuple(f"{module}.{n}" for n in range(int(row.shape[1]))), RowsApart(), row.shape)
    kind = kind if kind == "bias" else "kernel" if len(row.shape) == 2 else "scale"
    rule: Rule = Same()
    theirs = (f"{module}.{kind}",)
    if "linear_qkv" in row.ours:
        rule, theirs = QkvSeparate(), tuple(f"{module}.{part}.{kind}" for part in "qkv")
    return Row(row.ours, theirs, Transposed(rule) if kind == "kernel" else rule, row.shape)


class ToyFile(SingleFile[ToyConfig]):
    """One file; its header tells the heads and the clips, the tensors all else."""

    def rows(self, network: ToyConfig) -> list[Row]:
        return expand(map(_row, names.table()), network.num_layers)

    def recognizes(self, config: Mapping[str, Any], shapes: Mapping[str, Shape]) -> bool:
        return _WITNESS in shapes and "captions.1.kernel" in shapes

    def read_config(
        self, config: Mapping[str, Any], shapes: Mapping[str, Shape]
    ) -> tuple[ToyConfig, SampleSize | None]:
        layers = {name.split(".")[1] for name in shapes if name.startswith("blocks.")}
        heads = config.get("heads", "")
        if _WITNESS not in shapes or not heads.isdecimal():
            raise ValueError(f"no {_WITNESS}, or a header without heads")
        hidden, time = shapes[_WITNESS][0], shapes["time_embedding.linear_2.bias"][0]
        clip = [int(size) for size in config.get("clip", "").split("x") if size.isdecimal()]
        return ToyConfig(len(layers), hidden, int(heads), time), SampleSize(*clip) if len(clip) == 3 else None

    def write_config(self, network: ToyConfig, sample: SampleSize) -> dict[str, str]:
        clip = f"{sample.frames}x{sample.height}x{sample.width}"
        return {"heads": str(network.num_attention_heads), "clip": clip}

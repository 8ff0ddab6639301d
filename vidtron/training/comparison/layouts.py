"""Names of layouts, as in `TP2+SP+PP2`."""

import re
from dataclasses import dataclass, replace
from typing import Self

from vidtron.config.parallel import CpCommType
from vidtron.config.ranges import shown
from vidtron.config.run import RunConfig

SIZES = ("TP", "PP", "VPP", "CP", "DP")
EXCHANGES: dict[str, CpCommType] = {"A2A": "a2a", "ALL_GATHER": "all_gather"}
ACCEPTED = (
    "parts joined by +, each once at most: TPn, SP, PPn, VPPn, CPn, DPn with n from 1; a2a or all_gather beside CPn"
)
MOST_RANKS = 4096


@dataclass(frozen=True)
class Layout:
    """How many ranks there are and what each is for."""

    name: str
    tensor: int = 1
    sequence: bool = False
    pipeline: int = 1
    chunks: int = 1
    """Model chunks of a pipeline rank; more than one: the interleaved schedule."""
    context: int = 1
    data: int = 1
    exchange: CpCommType = "auto"

    @classmethod
    def parse(cls, name: str) -> Self:
        """The layout of a name; upper and lower case are the same.

        Raises:
            ValueError: what of the name cannot be used, and what would be accepted.
        """
        sizes: dict[str, int] = {}
        words: list[str] = []
        for part in name.upper().split("+"):
            found = re.fullmatch(r"([A-Z]+)(\d{1,5})", part)
            if found and found[1] in SIZES and int(found[2]):
                known, sizes[found[1]] = found[1] in sizes, int(found[2])
            elif part == "SP" or part in EXCHANGES:
                known = part in words
                words.append(part)
            elif re.fullmatch(r"EP\d*", part):
                raise ValueError(f"{shown(part)}: no model has experts to divide; accepted: {ACCEPTED}")
            else:
                raise ValueError(f"{shown(part) or 'an empty part'}: accepted: {ACCEPTED}")
            if known:
                raise ValueError(f"{part}: given twice; accepted: {ACCEPTED}")
        exchanges = [EXCHANGES[word] for word in words if word in EXCHANGES]
        layout = cls(
            name,
            tensor=sizes.get("TP", 1),
            sequence="SP" in words,
            pipeline=sizes.get("PP", 1),
            chunks=sizes.get("VPP", 1),
            context=sizes.get("CP", 1),
            data=sizes.get("DP", 1),
            exchange=exchanges[0] if exchanges else "auto",
        )
        layout._check(exchanges)
        return layout

    def _check(self, exchanges: list[CpCommType]) -> None:
        if self.sequence and self.tensor == 1:
            raise ValueError("SP: splits tokens over tensor-parallel ranks; accepted: beside TP2 or more")
        if self.chunks > 1 and self.pipeline == 1:
            raise ValueError(f"VPP{self.chunks}: divides pipeline stages; accepted: beside PP2 or more")
        if exchanges and self.context == 1:
            raise ValueError(f"{exchanges[0]}: an exchange of context-parallel ranks; accepted: beside CP2 or more")
        if len(exchanges) > 1:
            raise ValueError("a2a and all_gather: one exchange is used; accepted: one of them")
        if self.ranks > MOST_RANKS:
            raise ValueError(f"{self.ranks:,} ranks; accepted: at most {MOST_RANKS:,}")

    @property
    def ranks(self) -> int:
        """All of them."""
        return self.tensor * self.pipeline * self.context * self.data

    @property
    def samples_divisor(self) -> int:
        """What a global batch is a multiple of, for micro-batches of one sample."""
        return self.data * (self.pipeline if self.chunks > 1 else 1)

    def applied(self, config: RunConfig) -> RunConfig:
        """The run under this layout.

        Raises:
            ValueError: the layers do not divide into the chunks.
        """
        per_chunk = None
        if self.chunks > 1:
            layers, parts = config.network.num_layers, self.pipeline * self.chunks
            if layers % parts:
                raise ValueError(
                    f"VPP{self.chunks}: {layers} layers do not divide into {parts} chunks; accepted: VPPn where n "
                    f"times {self.pipeline} stages divides {layers}"
                )
            per_chunk = layers // parts
        return replace(
            config,
            parallel=replace(
                config.parallel,
                tensor_model_parallel_size=self.tensor,
                sequence_parallel=self.sequence,
                pipeline_model_parallel_size=self.pipeline,
                num_layers_per_virtual_pipeline_stage=per_chunk,
                context_parallel_size=self.context,
                cp_comm_type=self.exchange if self.exchange != "auto" else config.parallel.cp_comm_type,
            ),
        )

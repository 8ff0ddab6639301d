"""Low-rank adapters beside the linear maps of a transformer layer (LoRA, arXiv:2106.09685).

y = W x + scale * B A dropout(x), with A [rank, in] and B [out, rank]. The map's own weight is split over the TP group
by columns or rows, and the adapter with it: B by its rows beside a column-parallel map, A by its columns beside a
row-parallel one, the other half whole on every rank. What travels between the ranks is [tokens, rank].

Shape letters: S tokens of this rank, B micro-batch, I input features of this rank, O output features of this rank,
R rank of the adapter times the number of parts, T time embeddings, K kinds of tokens, D hidden width.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.dist_checkpointing.mapping import ShardedStateDict
from megatron.core.tensor_parallel import set_tensor_model_parallel_attributes
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from vidtron.config.lora import AdaptationConfig
from vidtron.models.layers import initialization as init
from vidtron.models.layers.conditioning import Samples
from vidtron.models.layers.lora_places import Split, by_head, by_kind, one_after_another, place_of, with_zeros
from vidtron.parallel.randomness import kept


class Pair(nn.Module):
    """The two matrices, A and B, of one adapter."""

    def __init__(self, rank: int, inputs: int, outputs: int, dtype: torch.dtype):
        super().__init__()
        self.A = nn.Parameter(torch.empty(rank, inputs, dtype=dtype))
        self.B = nn.Parameter(torch.empty(outputs, rank, dtype=dtype))

    def forward(self) -> tuple[Tensor, Tensor]:
        """A and B. By a call: --overlap-param-gather waits for a module's weights when the module is called."""
        return self.A, self.B


class LoraLinear(MegatronModule):
    """The adapters of one linear map, a `Pair` for each adapted part of its output."""

    def __init__(
        self,
        config: Any,
        split: Split,
        parts: Sequence[str],
        *,
        inputs: int,
        outputs: int,
        adaptation: AdaptationConfig,
        name: str,
        seed: int,
        tp: ProcessGroup,
    ):
        """
        Args:
            config: mcore's.
            split: how the map is split over the TP group.
            parts: names of the adapted parts.
            inputs: features of the map's whole input.
            outputs: features of one part of its whole output.
            adaptation: rank, alpha and dropout.
            name: of the map in the whole model; dropout is keyed by it.
            seed: the run's `--seed`.
            tp: the TP group.
        """
        super().__init__(config=config)
        assert adaptation.lora_rank is not None
        self.split, self.parts, self.tp, self.name, self.seed = split, tuple(parts), tp, name, seed
        self.rank, self.scale, self.dropout = adaptation.lora_rank, adaptation.lora_scale, adaptation.lora_dropout
        self.sequence_parallel = config.sequence_parallel and split in ("column", "row")
        shards = tp.size()
        inputs //= shards if split == "row" else 1
        outputs //= 1 if split == "row" else shards
        for part in self.parts:
            pair = Pair(self.rank, inputs, outputs, config.params_dtype)
            halves = (pair.A, pair.B) if split == "row" else (pair.B, pair.A)
            set_tensor_model_parallel_attributes(halves[0], True, 1 if split == "row" else 0, 1)
            # The whole half sees a part of the tokens on each rank under SP: its gradients are summed over the group.
            halves[1].sequence_parallel = self.sequence_parallel  # type: ignore[attr-defined]
            self.add_module(part, pair)

    def forward(self, x_SBI: Tensor, samples: Samples | None) -> dict[str, Tensor]:
        """Input of the map, as this rank holds it -> what is to be added to each adapted part: [S, B, O].

        Raises:
            ValueError: dropout is on and nobody says which samples these are.
        """
        pairs = [self.get_submodule(part)() for part in self.parts]
        scale = self.scale
        if self.training and self.dropout > 0:
            masks = self._masks(x_SBI, samples)
            scale /= 1 - self.dropout
            low_SBR = torch.cat(
                [_dropped_linear(x_SBI, A, mask) for (A, _), mask in zip(pairs, masks, strict=True)], -1
            )
        else:
            low_SBR = F.linear(x_SBI, torch.cat([A for A, _ in pairs]) if len(pairs) > 1 else pairs[0][0])
        low_SBR = self._exchanged(low_SBR * scale)
        return {
            part: F.linear(low, B)
            for part, (_, B), low in zip(self.parts, pairs, low_SBR.split(self.rank, dim=-1), strict=True)
        }

    def _exchanged(self, low_SBR: Tensor) -> Tensor:
        """The product of A, complete and for the tokens whose output this rank computes."""
        if self.tp.size() == 1:
            return low_SBR
        if self.split == "row":
            if self.sequence_parallel:
                return reduce_scatter_to_sequence_parallel_region(low_SBR, group=self.tp)
            return reduce_from_tensor_model_parallel_region(low_SBR, group=self.tp)
        if self.sequence_parallel:
            return gather_from_sequence_parallel_region(low_SBR, tensor_parallel_output_grad=True, group=self.tp)
        return copy_to_tensor_model_parallel_region(low_SBR, group=self.tp)

    def _masks(self, x_SBI: Tensor, samples: Samples | None) -> list[Callable[[], Tensor]]:
        """A function for each part that draws the mask of its input."""
        if samples is None:
            raise ValueError("--lora-dropout: the network was not told which samples of the run these are")
        first = samples.split.cp_start if self.split == "row" else samples.split.start
        # A sample has one or several rows of modulation, as its frame mask and the micro-batch ask for: all alike.
        rows = {"vectors": range(1), "context": range(x_SBI.shape[0])}.get(
            self.split, range(first, first + x_SBI.shape[0])
        )
        width = x_SBI.shape[-1]
        column = self.tp.rank() * width if self.split == "row" else 0
        columns = range(column, column + width)
        return [
            partial(
                kept,
                1 - self.dropout,
                self.seed,
                samples.positions,
                f"{self.name}.{part}",
                rows,
                columns,
                x_SBI.device,
            )
            for part in self.parts
        ]

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple = (), metadata: dict | None = None
    ) -> ShardedStateDict:
        """mcore's sharded tensors of all pairs."""
        half, axis = ("A", 1) if self.split == "row" else ("B", 0)
        return make_sharded_tensors_for_checkpoint(
            self.state_dict(prefix="", keep_vars=True),
            prefix,
            {f"{part}.{half}": axis for part in self.parts},
            sharded_offsets,
            tp_group=self.tp,
            dp_cp_group=(metadata or {})["dp_cp_group"],
        )


class _DroppedLinear(torch.autograd.Function):
    """A dropout(x) that keeps x for its backward pass and draws the mask again there.

    x is kept by the map beside it, or recomputed; masks and masked copies would cost more than the whole layer keeps.
    """

    @staticmethod
    def forward(ctx: Any, x_SBI: Tensor, weight_RI: Tensor, mask: Callable[[], Tensor]) -> Tensor:
        ctx.save_for_backward(x_SBI, weight_RI)
        ctx.mask = mask
        return F.linear(torch.where(mask(), x_SBI, 0), weight_RI)

    @staticmethod
    def backward(ctx: Any, grad_SBR: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x_SBI, weight_RI = ctx.saved_tensors
        mask_SBI = ctx.mask()
        grad_x = torch.where(mask_SBI, grad_SBR @ weight_RI, 0) if ctx.needs_input_grad[0] else None
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = grad_SBR.flatten(0, 1).t() @ torch.where(mask_SBI, x_SBI, 0).flatten(0, 1)
        return grad_x, grad_weight, None


def _dropped_linear(x_SBI: Tensor, weight_RI: Tensor, mask: Callable[[], Tensor]) -> Tensor:
    return _DroppedLinear.apply(x_SBI, weight_RI, mask)


def adapted(output_SBO: Tensor, lora: LoraLinear | None, x_SBI: Tensor, samples: Samples | None) -> Tensor:
    """A map's output with what its adapter adds, if it has one: [S, B, O]."""
    return output_SBO if lora is None else output_SBO + lora(x_SBI, samples)["out"]


def adapted_heads(
    mixed_SBO: Tensor,
    lora: LoraLinear | None,
    x_SBI: Tensor,
    samples: Samples | None,
    heads: int,
    parts: Sequence[str] = ("q", "k", "v"),
) -> Tensor:
    """Output of a map, `parts` in turn for each of the rank's `heads`, with what its adapters add: [S, B, O]."""
    if lora is None:
        return mixed_SBO
    return mixed_SBO + by_head(with_zeros(lora(x_SBI, samples), parts), heads)


def adapted_halves(output_SBO: Tensor, lora: LoraLinear | None, x_SBI: Tensor, samples: Samples | None) -> Tensor:
    """Output of a gated map, [gate; value] of this rank's inner features, with what its adapters add: [S, B, O]."""
    if lora is None:
        return output_SBO
    return output_SBO + one_after_another(with_zeros(lora(x_SBI, samples), place_of("mlp.lora_gated_fc1").parts))


def added_vectors(deltas: Mapping[str, Tensor], kinds: int) -> Tensor:
    """Modulation vectors that the adapters add, of the first norm and then of the second: [T, B, K, vectors, D].

    Args:
        deltas: each part as diffusers has it, shift, scale and gate of each kind in turn, [T, B, K * 3 * D].
        kinds: of tokens.
    """
    return by_kind(with_zeros(deltas, place_of("modulation.lora").parts), kinds)


def attach(
    layers: Iterable[Any],
    parts: Mapping[str, Sequence[str]],
    adaptation: AdaptationConfig,
    *,
    seed: int,
    tp: ProcessGroup,
) -> None:
    """Give `ModulatedLayer`s their adapters, not yet initialised.

    Args:
        layers: of one model chunk.
        parts: place (`lora_places.PLACES`) -> the parts of its output to adapt.
        adaptation: the flags.
        seed: the run's `--seed`.
        tp: the TP group.
    """
    for layer in layers:
        config = layer.config
        for place, chosen in parts.items():
            parent, attribute = place.rsplit(".", 1)
            inputs, outputs = _sizes(layer, place)
            lora = LoraLinear(
                config,
                place_of(place).split,
                chosen,
                inputs=inputs,
                outputs=outputs,
                adaptation=adaptation,
                name=f"layers.{layer.layer_number - 1}.{place}",
                seed=seed,
                tp=tp,
            )
            setattr(layer.get_submodule(parent), attribute, lora)


def _sizes(layer: Any, place: str) -> tuple[int, int]:
    """Features of a map's whole input, and of one part of its whole output."""
    config = layer.config
    hidden, heads = config.hidden_size, config.num_attention_heads * config.kv_channels
    match place.split("."):
        case ["mlp", "lora_fc1" | "lora_gated_fc1"]:
            return hidden, config.ffn_hidden_size
        case ["mlp", "lora_fc2"]:
            return config.ffn_hidden_size, hidden
        case ["modulation", "lora"]:
            return layer.modulation.linear.input_size, layer.modulation.linear.output_size // 2
        case ["cross_attention", "kv", number, "lora"]:
            return layer.cross_attention.kv[int(number)].features, heads
        case [_, "lora_proj"]:
            return heads, hidden
        case _:
            return hidden, heads


def is_adapter(name: str) -> bool:
    """Whether a parameter, by its name in the model, belongs to an adapter."""
    return any(part.startswith("lora") for part in name.split("."))


def initial(name: str) -> init.Rule:
    """Initial values of an adapter's parameter: B zero, A as torch's linear layers (as SAT and PEFT do)."""
    if name.endswith(".B"):
        return init.constant(0.0)
    return lambda whole, generator: init.uniform(1.0 / math.sqrt(whole.shape[1]))(whole, generator)

"""A transformer layer whose norms are modulated by the time embedding (adaLN; DiT, arXiv:2212.09748).

Shape letters: S tokens of this rank, B micro-batch, D hidden width, E width of the time embedding, T time embeddings,
K kinds of tokens.
"""

import copy
from typing import Any

from megatron.core.tensor_parallel import ColumnParallelLinear
from megatron.core.tensor_parallel.mappings import (
    all_gather_last_dim_from_tensor_parallel_region,
    gather_from_tensor_model_parallel_region,
)
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules
from torch import Tensor
from torch.distributed import ProcessGroup

from vidtron.models.layers.conditioning import Conditioning, Samples, Segment
from vidtron.models.layers.lora import LoraLinear, added_vectors
from vidtron.models.layers.mlp import run_mlp
from vidtron.models.layers.norms import gated_residual, modulate
from vidtron.models.layers.recompute import Recomputed


class Modulation(MegatronModule):
    """Time embedding -> `vectors` modulation vectors of the hidden width, for each of `kinds` kinds of tokens.

    The weight, [kinds * vectors * D, E], is split over the TP group by rows; every rank receives all vectors. With
    sequence parallelism each rank uses them on its own tokens, so their gradients are summed over the group.
    """

    def __init__(
        self,
        config: TransformerConfig,
        *,
        embedding_width: int,
        vectors: int,
        kinds: int,
        tp: ProcessGroup,
    ):
        super().__init__(config=config)
        self.vectors, self.kinds, self.tp = vectors, kinds, tp
        # Its input is one row a sample, not a shard of the tokens, and too short for FP8's matrix products: mcore's
        # own linear layer under every backend, without the fused accumulation that would need apex.
        linear_config = copy.copy(config)
        linear_config.sequence_parallel = False
        linear_config.gradient_accumulation_fusion = False
        self.linear = ColumnParallelLinear(
            embedding_width,
            kinds * vectors * config.hidden_size,
            config=linear_config,
            init_method=config.init_method,
            tp_group=tp,
        )
        self.lora: LoraLinear | None = None

    def forward(self, embedding_TBE: Tensor, samples: Samples | None = None) -> tuple[Tensor, ...]:
        """[T, B, E] -> `vectors` tensors [T, B, K, D]."""
        flat, bias = self.linear(embedding_TBE)
        vectors_TBKVD = self._gathered(flat if bias is None else flat + bias).unflatten(
            -1, (self.kinds, self.vectors, -1)
        )
        if self.lora is not None:
            deltas = {part: self._gathered(delta) for part, delta in self.lora(embedding_TBE, samples).items()}
            vectors_TBKVD = vectors_TBKVD + added_vectors(deltas, self.kinds)
        return vectors_TBKVD.unbind(dim=-2)

    def _gathered(self, flat: Tensor) -> Tensor:
        if self.tp.size() == 1:
            return flat
        if self.config.sequence_parallel:
            return all_gather_last_dim_from_tensor_parallel_region(flat, group=self.tp)
        return gather_from_tensor_model_parallel_region(flat, group=self.tp)


class ModulatedLayer(TransformerLayer):
    """Attention and MLP, each behind a modulated norm and a gate.

    mcore builds the parts (norms, attention, MLP) from the spec; the order in which they run is CogVideoX's
    (arXiv:2408.06072 section 2.2, expert adaptive layer norm). The cheap parts are recomputed in the backward pass;
    under FP8 the inputs of the linear layers are left to Transformer Engine, which keeps only their FP8 copies.
    """

    def __init__(
        self,
        config: TransformerConfig,
        submodules: TransformerLayerSubmodules,
        *,
        embedding_width: int,
        kinds: int,
        pg_collection: Any,
        **kwargs: Any,
    ):
        super().__init__(config=config, submodules=submodules, pg_collection=pg_collection, **kwargs)
        self.modulation = Modulation(
            config,
            embedding_width=embedding_width,
            vectors=6,
            kinds=kinds,
            tp=pg_collection.tp,
        )
        self.recompute_linear_inputs = not config.fp8

    def forward(self, hidden_SBD: Tensor, conditioning: Conditioning) -> Tensor:  # type: ignore[override]
        """[S, B, D] -> [S, B, D]."""
        segments = conditioning.segments
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(
            conditioning.embedding_TBE, conditioning.samples
        )

        y = self._modulated(self.input_layernorm, hidden_SBD, shift_a, scale_a, segments)
        with y.not_kept():
            update, bias = self.self_attention(y.value, conditioning)
        hidden_SBD = gated_residual(hidden_SBD, gate_a, update, bias, segments)

        y = self._modulated(self.pre_mlp_layernorm, hidden_SBD, shift_m, scale_m, segments)
        with y.not_kept():
            update, bias = run_mlp(self.mlp, y.value, conditioning.samples, recompute=self.recompute_linear_inputs)
        return gated_residual(hidden_SBD, gate_m, update, bias, segments)

    def _modulated(
        self, norm: Any, hidden_SBD: Tensor, shift: Tensor, scale: Tensor, segments: tuple[Segment, ...]
    ) -> Recomputed:
        return Recomputed(
            lambda x, b, w: modulate(norm(x), b, w, segments),
            hidden_SBD,
            shift,
            scale,
            enabled=self.recompute_linear_inputs,
        )

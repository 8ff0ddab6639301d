"""Where the modulation vectors of a layer's norms come from.

Shape letters: B micro-batch, D hidden width, E width of the time embedding, T time embeddings, K kinds of tokens,
V vectors.
"""

import copy

import torch
from megatron.core.tensor_parallel import ColumnParallelLinear
from megatron.core.tensor_parallel.mappings import (
    all_gather_last_dim_from_tensor_parallel_region,
    copy_to_tensor_model_parallel_region,
    gather_from_tensor_model_parallel_region,
)
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.module import MegatronModule
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from vidtron.models.layers.conditioning import Samples
from vidtron.models.layers.lora import LoraLinear, added_vectors
from vidtron.models.layers.norms import mark_sequence_parallel


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
        """Vectors of the modulation: [T, B, E] -> `vectors` tensors [T, B, K, D]."""
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


class TableModulation(MegatronModule):
    """One table of vectors for each layer, added to vectors that all layers share (adaLN-single, arXiv:2310.00426).

    The shared vectors, `[T, B, K * V * D]`, are the conditioning's embedding; the model makes them once from the time
    embedding and passes them through `shared_vectors`.
    """

    def __init__(self, config: TransformerConfig, *, embedding_width: int, vectors: int, kinds: int, tp: ProcessGroup):
        super().__init__(config=config)
        if embedding_width != kinds * vectors * config.hidden_size:
            raise ValueError(f"{embedding_width} features of shared vectors; the tables have {kinds} x {vectors} rows")
        self.table = nn.Parameter(torch.empty(kinds, vectors, config.hidden_size, dtype=config.params_dtype))
        mark_sequence_parallel(self, config)

    def forward(self, embedding_TBE: Tensor, samples: Samples | None = None) -> tuple[Tensor, ...]:
        """This layer's vectors: [T, B, K * V * D] -> V tensors [T, B, K, D]."""
        return (embedding_TBE.unflatten(-1, self.table.shape) + self.table).unbind(dim=-2)


def shared_vectors(vectors_TBE: Tensor, config: TransformerConfig, tp: ProcessGroup) -> Tensor:
    """Vectors that every rank of the TP group has and uses on its own tokens: under sequence parallelism their
    gradients are summed over the group, once for all layers."""
    return copy_to_tensor_model_parallel_region(vectors_TBE, group=tp) if config.sequence_parallel else vectors_TBE

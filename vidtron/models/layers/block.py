"""mcore's TransformerBlock with a typed path for the conditioning.

mcore's block hands its layers a fixed list of arguments, and its recomputation takes only those as inputs: what a
closure carries gets no gradient. This subclass overrides forward and the recomputed forward, nothing else.
Shape letters: S tokens of this rank, B micro-batch, D hidden width.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from megatron.core import tensor_parallel
from megatron.core.enums import Fp8Recipe
from megatron.core.fp8_utils import get_fp8_context
from megatron.core.transformer.transformer_block import TransformerBlock
from megatron.core.utils import make_viewless_tensor
from torch import Tensor, nn

from vidtron.models.layers.conditioning import Conditioning


class ConditionedTransformerBlock(TransformerBlock):
    """The layers of one pipeline stage; `conditioning` reaches each of them."""

    def forward(self, hidden_SBD: Tensor | None, conditioning: Conditioning) -> Tensor:  # type: ignore[override]
        """Run the layers: [S, B, D] (ignored where the pipeline sets the input) -> [S, B, D]."""
        if not self.pre_process:
            hidden_SBD = self.input_tensor
        # The pipeline frees a stage's output by its storage, which must not be shared (mcore schedules.py,
        # deallocate_output_tensor).
        hidden_SBD = make_viewless_tensor(inp=hidden_SBD, requires_grad=True, keep_graph=True)
        # With scales from past steps FP8 is one region over all layers, else a region of each layer.
        delayed = self.config.fp8 is not None and self.config.fp8_recipe == Fp8Recipe.delayed
        with get_fp8_context(self.config) if delayed else nullcontext():
            if self.config.recompute_granularity == "full" and self.training:
                hidden_SBD = self._checkpointed_forward(hidden_SBD, conditioning)
            else:
                hidden_SBD = self._run(0, len(self.layers), hidden_SBD, conditioning)
        if self.final_layernorm is not None:
            hidden_SBD = self.final_layernorm(hidden_SBD)
            hidden_SBD = make_viewless_tensor(inp=hidden_SBD, requires_grad=True, keep_graph=True)
        elif len(self.layers) == 0 and not self.pre_process:
            hidden_SBD = hidden_SBD.clone()  # input and output of a stage must be different nodes
        return hidden_SBD

    def _run(self, start: int, stop: int, hidden_SBD: Tensor, conditioning: Conditioning) -> Tensor:
        for layer in self.layers[start:stop]:
            hidden_SBD = _tracked([layer], hidden_SBD)
            with self._layer_fp8_context(layer.layer_number):
                hidden_SBD = layer(hidden_SBD, conditioning)
        return hidden_SBD

    def _layer_fp8_context(self, layer_number: int) -> AbstractContextManager[Any]:
        if self.config.fp8 is None or self.config.fp8_recipe == Fp8Recipe.delayed:
            return nullcontext()
        return get_fp8_context(self.config, layer_number - 1)

    def _checkpointed_forward(self, hidden_SBD: Tensor, conditioning: Conditioning) -> Tensor:  # type: ignore[override]
        layers, size = len(self.layers), self.config.recompute_num_layers
        if self.config.recompute_method == "uniform":
            for start in range(0, layers, size):
                hidden_SBD = self._checkpoint(start, min(start + size, layers), hidden_SBD, conditioning)
            return hidden_SBD
        recomputed = min(size, layers)
        for index in range(recomputed):
            hidden_SBD = self._checkpoint(index, index + 1, hidden_SBD, conditioning)
        return self._run(recomputed, layers, hidden_SBD, conditioning)

    def _checkpoint(self, start: int, stop: int, hidden_SBD: Tensor, conditioning: Conditioning) -> Tensor:
        def region(hidden: Tensor, *carried: Tensor) -> Tensor:
            return self._run(start, stop, hidden, conditioning.with_carried(carried))

        hidden_SBD = _tracked(self.layers[start:stop], hidden_SBD)
        return self._recomputed(region, hidden_SBD, *conditioning.carried())

    def _recomputed(self, region: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        if self.config.fp8 is None:
            return tensor_parallel.checkpoint(region, self.config.distribute_saved_activations, *inputs)
        from megatron.core.extensions.transformer_engine import te_checkpoint

        return te_checkpoint(
            region,
            self.config.distribute_saved_activations,
            tensor_parallel.random.get_cuda_rng_tracker,
            self.pg_collection.tp,
            *inputs,
        )


def _tracked(layers: Iterable[nn.Module], hidden_SBD: Tensor) -> Tensor:
    """The input of some layers, requiring a gradient if one of their weights does.

    A recomputed region without an input that requires one would give its weights none (mcore
    tensor_parallel/random.py). Below the first trained layer there is no backward pass.
    """
    if hidden_SBD.requires_grad or not torch.is_grad_enabled():
        return hidden_SBD
    trained = any(parameter.requires_grad for layer in layers for parameter in layer.parameters())
    return hidden_SBD.detach().requires_grad_() if trained else hidden_SBD

"""Attention of video tokens to encoded texts.

Shape letters: s tokens of one context-parallel rank, B micro-batch, L tokens of a context, N heads of this rank, R
features of a head, D hidden width, E features of a context.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.spec_utils import build_module
from torch import Tensor

from vidtron.models.layers.bias import add_bias
from vidtron.models.layers.conditioning import Conditioning, Samples
from vidtron.models.layers.lora import LoraLinear, adapted, adapted_heads


@dataclass
class CrossAttentionSubmodules:
    """Specs of the modules that a `CrossAttention` is built of."""

    linear_q: Any
    linear_kv: Any
    linear_proj: Any
    q_layernorm: Any = IdentityOp
    k_layernorm: Any = IdentityOp


def masked_attention(query: Tensor, key: Tensor, value: Tensor, mask_BL: Tensor | None) -> Tensor:
    """torch's scaled_dot_product_attention over keys that a mask leaves: [B, N, S, R], zeros where it leaves none.

    Args:
        query: [B, N, S, R].
        key: [B, N, L, R].
        value: [B, N, L, R].
        mask_BL: True where a key is attended to.
    """
    if mask_BL is None:
        return F.scaled_dot_product_attention(query, key, value)
    some_B1 = mask_BL.any(dim=1, keepdim=True)
    seen_BL = mask_BL | ~some_B1  # a softmax over nothing is not a number
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=seen_BL[:, None, None])
    return torch.where(some_B1[:, :, None, None], out, 0)


class KeysAndValues(MegatronModule):
    """Keys and values of one context; rows of the weight are [k, v] of each head in turn."""

    def __init__(self, config: TransformerConfig, submodules: CrossAttentionSubmodules, features: int, tp: Any):
        super().__init__(config=config)
        width: int = config.kv_channels  # type: ignore[assignment]
        self.features, self.heads = features, config.num_attention_heads // tp.size()
        self.linear = build_module(
            submodules.linear_kv,
            features,
            2 * config.num_attention_heads * width,
            config=config,
            init_method=config.init_method,
            gather_output=False,
            skip_bias_add=True,
            bias=config.add_bias_linear,
            is_expert=False,
            tp_group=tp,
        )
        self.k_layernorm = build_module(
            submodules.k_layernorm, config=config, hidden_size=width, eps=config.layernorm_epsilon
        )
        self.lora: LoraLinear | None = None

    def forward(self, states_LBE: Tensor, samples: Samples | None) -> tuple[Tensor, Tensor]:
        """Project a context: [L, B, E] -> keys and values, [L, B, N, R] each."""
        mixed = add_bias(*self.linear(states_LBE))
        mixed = adapted_heads(mixed, self.lora, states_LBE, samples, self.heads, ("k", "v"))
        key, value = mixed.unflatten(-1, (self.heads, -1)).chunk(2, dim=-1)
        return self.k_layernorm(key.contiguous()), value


class Contexts(MegatronModule):
    """Keys and values of each context, by number. Torch's own list of modules would hide from megatron-core that they
    are split over the TP group (transformer/utils.py, sharded_state_dict_default)."""

    def __init__(self, config: TransformerConfig, modules: Sequence[KeysAndValues]):
        super().__init__(config=config)
        for number, module in enumerate(modules):
            self.add_module(str(number), module)

    def __iter__(self) -> Iterator[KeysAndValues]:
        return iter(self._modules.values())  # type: ignore[arg-type]

    def __getitem__(self, number: int) -> KeysAndValues:
        return self._modules[str(number)]  # type: ignore[return-value]


class CrossAttention(MegatronModule):
    """Queries of the tokens; keys and values of each context, with a softmax of its own; the results are added.

    Heads are split over the TP group. Every rank has the whole contexts, so context parallelism needs no exchange: a
    rank's queries give a part of the gradients of keys and values, which the sum of weight gradients over the data-
    and context-parallel ranks completes. megatron-core's own cross-attention has one context and no norms, and takes
    its linear layers' group from global state (transformer/attention.py:1640, 0.16.1).

    The kernel is torch's under every backend: contexts are short, and masks of keys alone are what it is good at.
    """

    def __init__(
        self,
        config: TransformerConfig,
        submodules: CrossAttentionSubmodules,
        layer_number: int,
        *,
        context_widths: Sequence[int],
        pg_collection: Any,
        **_: Any,
    ):
        """
        Args:
            config: mcore's.
            submodules: linear layers and norms.
            layer_number: from 1.
            context_widths: features of each context.
            pg_collection: with the TP group.
        """
        super().__init__(config=config)
        self.layer_number, tp = layer_number, pg_collection.tp
        width: int = config.kv_channels  # type: ignore[assignment]
        inner = config.num_attention_heads * width
        self.heads = config.num_attention_heads // tp.size()
        shared = {"config": config, "bias": config.add_bias_linear, "is_expert": False, "tp_group": tp}
        self.linear_q = build_module(
            submodules.linear_q,
            config.hidden_size,
            inner,
            init_method=config.init_method,
            gather_output=False,
            skip_bias_add=True,
            **shared,
        )
        whole = copy.copy(config)
        whole.sequence_parallel = False  # a context is whole on every rank, not a shard of the tokens
        self.kv = Contexts(config, [KeysAndValues(whole, submodules, features, tp) for features in context_widths])
        self.linear_proj = build_module(
            submodules.linear_proj,
            inner,
            config.hidden_size,
            init_method=config.output_layer_init_method,
            input_is_parallel=True,
            skip_bias_add=True,
            **shared,
        )
        self.q_layernorm = build_module(
            submodules.q_layernorm, config=config, hidden_size=width, eps=config.layernorm_epsilon
        )
        self.lora_q: LoraLinear | None = None
        self.lora_proj: LoraLinear | None = None

    def forward(self, hidden_sBD: Tensor, conditioning: Conditioning) -> tuple[Tensor, Tensor | None]:
        """Hidden states [s, B, D] (a shard of them under SP) -> the same shape, and the bias still to be added."""
        samples = conditioning.samples
        query = adapted(add_bias(*self.linear_q(hidden_sBD)), self.lora_q, hidden_sBD, samples)
        query_sBNR = self.q_layernorm(query.unflatten(-1, (self.heads, -1)))
        query = query_sBNR.permute(1, 2, 0, 3)
        out: Tensor | None = None
        for context, keys_and_values in zip(conditioning.contexts, self.kv, strict=True):
            key, value = (x.permute(1, 2, 0, 3) for x in keys_and_values(context.states_LBD, samples))
            attended = masked_attention(query, key, value, context.mask_BL)
            out = attended if out is None else out + attended
        assert out is not None
        out_sBD = out.permute(2, 0, 1, 3).flatten(2)
        update_sBD, bias = self.linear_proj(out_sBD)
        return adapted(update_sBD, self.lora_proj, out_sBD, samples), bias

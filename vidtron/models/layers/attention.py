"""Bidirectional self-attention over video tokens.

Shape letters: S all tokens, s tokens of one context-parallel rank (padding included), B micro-batch, N heads of this
rank, R features of a head, D hidden width.
"""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel import ColumnParallelLinear
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.spec_utils import build_module
from torch import Tensor

from vidtron.models.layers.bias import add_bias
from vidtron.models.layers.conditioning import Conditioning, Rotary
from vidtron.models.layers.lora import LoraLinear, adapted, adapted_heads
from vidtron.models.layers.norms import AllHeadsRMSNorm
from vidtron.models.layers.recompute import Recomputed
from vidtron.models.layers.rotary import rotate
from vidtron.parallel.context_parallel import (
    choose_exchange,
    gather_keys_values,
    heads_for_tokens,
    tokens_for_heads,
)


class SDPACoreAttention(MegatronModule):
    """torch's scaled_dot_product_attention behind mcore's interface for attention kernels, without a mask."""

    def __init__(self, config: TransformerConfig, softmax_scale: float | None = None, **_: Any):
        super().__init__(config=config)
        self.softmax_scale = softmax_scale

    def forward(self, query_SBNR: Tensor, key_SBNR: Tensor, value_SBNR: Tensor, *_: Any, **__: Any) -> Tensor:
        """Attend: [S, B, N, R] each (key and value may be longer) -> [S, B, N * R]."""
        query, key, value = (x.permute(1, 2, 0, 3) for x in (query_SBNR, key_SBNR, value_SBNR))
        out = F.scaled_dot_product_attention(query, key, value, scale=self.softmax_scale)
        return out.permute(2, 0, 1, 3).flatten(2)


class VideoSelfAttention(SelfAttention):
    """mcore's self-attention with query-key norm before a 3D rotary embedding, inside our exchange over CP ranks.

    The norms and the rotation are recomputed in the backward pass (norms over all heads are not, for they are a
    collective of their own, and run before the exchange). With the all-to-all exchange they run after it, on
    all tokens of the rank's heads: one collective carries queries, keys and values, and nothing is kept twice.
    """

    def __init__(self, config: TransformerConfig, submodules: SelfAttentionSubmodules, **kwargs: Any):
        cp_comm_type = kwargs.pop("cp_comm_type", None)  # mcore passes it on from the configuration under CP only
        exchange = choose_exchange(
            cp_comm_type or "auto",
            heads=config.num_attention_heads,
            tp=kwargs["pg_collection"].tp.size(),
            cp=kwargs["pg_collection"].cp.size(),
        )
        if exchange == "kernel":
            kwargs["cp_comm_type"] = cp_comm_type
        # mcore 0.19 builds query-key norms only of configurations with `qk_layernorm`, which norms over all heads must
        # not have (`AllHeadsRMSNorm`): the norms are built here.
        without_norms = replace(submodules, q_layernorm=IdentityOp, k_layernorm=IdentityOp)
        super().__init__(config=config, submodules=without_norms, **kwargs)
        self.q_layernorm = self._qk_norm(submodules.q_layernorm)
        self.k_layernorm = self._qk_norm(submodules.k_layernorm)
        self.exchange = exchange
        self.norms_all_heads = isinstance(self.q_layernorm, AllHeadsRMSNorm)
        self.lora_qkv: LoraLinear | None = None
        self.lora_proj: LoraLinear | None = None
        if isinstance(self.linear_qkv, ColumnParallelLinear):
            self.linear_qkv.skip_bias_add = True  # `add_bias` saves a pass

    def _qk_norm(self, norm: Any) -> Any:
        if norm is None:
            return None
        config = self.config
        return build_module(
            norm, config=config, hidden_size=self.hidden_size_per_attention_head, eps=config.layernorm_epsilon
        )

    def forward(self, hidden_sBD: Tensor, conditioning: Conditioning) -> tuple[Tensor, Tensor | None]:  # type: ignore[override]
        """Hidden states [s, B, D] (a shard of them under SP) -> the same shape, and the bias still to be added."""
        samples = conditioning.samples
        heads, width = self.num_attention_heads_per_partition, self.hidden_size_per_attention_head
        mixed_sBD = add_bias(*self.linear_qkv(hidden_sBD))
        mixed_sBD = adapted_heads(mixed_sBD, self.lora_qkv, hidden_sBD, samples, heads)
        mixed_sBNX = mixed_sBD.view(*mixed_sBD.shape[:2], heads, 3 * width)
        if self.norms_all_heads:  # before heads are traded for tokens
            query, key, value = mixed_sBNX.split(width, dim=-1)
            mixed_sBNX = torch.cat((self.q_layernorm(query), self.k_layernorm(key), value), dim=-1)
        out_sBD = self.attend(mixed_sBNX, conditioning)
        update_sBD, bias = self.linear_proj(out_sBD)
        return adapted(update_sBD, self.lora_proj, out_sBD, samples), bias

    def attend(self, mixed_sBNX: Tensor, conditioning: Conditioning) -> Tensor:
        """[q, k, v] of each head -> what the tokens attend to, over all tokens: [s, B, N * R]."""
        cp, width = self.pg_collection.cp, self.hidden_size_per_attention_head
        first = 0 if self.exchange in ("none", "a2a") else cp.rank() * mixed_sBNX.shape[0]
        if self.exchange == "a2a":
            mixed_sBNX = heads_for_tokens(mixed_sBNX, cp)
        padding = 0
        if self.exchange in ("none", "a2a"):  # all tokens are here: padding is cut off before the kernel sees it
            padding = mixed_sBNX.shape[0] - conditioning.tokens
            mixed_sBNX = mixed_sBNX[: conditioning.tokens] if padding else mixed_sBNX

        rotary = conditioning.rotary and conditioning.rotary.rows(first, first + mixed_sBNX.shape[0])
        tokens = conditioning.tokens if self.exchange == "all_gather" else None
        out_SBD = self.attention_of(mixed_sBNX, rotary, gathered=tokens)
        out_SBD = F.pad(out_SBD, (0, 0, 0, 0, 0, padding)) if padding else out_SBD
        if self.exchange == "a2a":
            out_SBD = tokens_for_heads(out_SBD.unflatten(-1, (-1, width)), cp).flatten(2)
        return out_SBD

    def attention_of(self, mixed_SBNX: Tensor, rotary: Rotary | None, *, gathered: int | None = None) -> Tensor:
        """Norms, rotation and the kernel: [S, B, N, 3 R] -> [S, B, N * R].

        Args:
            mixed_SBNX: [q, k, v] of each head.
            rotary: of these tokens.
            gathered: attend to so many first tokens of all context-parallel ranks; None: to these.
        """
        query, key, value = mixed_SBNX.split(self.hidden_size_per_attention_head, dim=-1)
        prepared = Recomputed(lambda q, k: self._normalize_and_rotate(q, k, rotary), query, key)
        kernel = self.core_attention
        if self.checkpoint_core_attention and self.training:  # --recompute-granularity selective
            kernel = self._checkpointed_attention_forward
        with prepared.not_kept():
            query, key = prepared.value
            if gathered is not None:
                key, value = (x[:gathered] for x in gather_keys_values(key, value, self.pg_collection.cp))
            return kernel(query, key, value, None, attn_mask_type=AttnMaskType.no_mask)

    def _normalize_and_rotate(self, query: Tensor, key: Tensor, rotary: Rotary | None) -> tuple[Tensor, Tensor]:
        if not self.norms_all_heads and self.q_layernorm is not None:
            # The norms need dense rows: made here once, not again in their backward pass.
            query, key = self.q_layernorm(query.contiguous()), self.k_layernorm(key.contiguous())
        if rotary is None:
            return query, key
        return rotate(query, rotary), rotate(key, rotary)

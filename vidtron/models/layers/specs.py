"""One layer, two backends: mcore's own linear layers with torch kernels, or Transformer Engine's."""

import copy
import re
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.attention import SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_layer import TransformerLayerSubmodules

from vidtron.config.precision import PrecisionConfig
from vidtron.config.world import World
from vidtron.models.layers.attention import SDPACoreAttention, VideoSelfAttention
from vidtron.models.layers.cross_attention import CrossAttention, CrossAttentionSubmodules
from vidtron.models.layers.layer import ModulatedLayer
from vidtron.models.layers.modulation import Modulation
from vidtron.models.layers.norms import LayerNorm

Backend = Literal["local", "transformer_engine"]


def choose_backend(precision: PrecisionConfig, world: World) -> Backend:
    """The backend of --transformer-impl; auto takes Transformer Engine where it is installed and a GPU is present."""
    if precision.transformer_impl != "auto":
        return precision.transformer_impl
    return "transformer_engine" if world.has_cuda and "transformer_engine" in world.packages else "local"


def norm_class(backend: Backend) -> Any:
    """The backend's layer norm: called with (config, hidden_size, eps)."""
    if backend == "local":
        return LayerNorm
    from megatron.core.extensions.transformer_engine import TENorm

    return TENorm


def with_eps(norm: Any, fixed_eps: float) -> type:
    """The class `norm` with `fixed_eps` instead of the epsilon that mcore passes to every norm of a layer."""

    class Norm:  # a class: mcore takes a function in a spec for the finished module (transformer/spec_utils.py)
        def __new__(cls, config: TransformerConfig, hidden_size: int, eps: float) -> Any:
            return norm(config=config, hidden_size=hidden_size, eps=fixed_eps)

    return Norm


def _te_core_attention(exchange_outside: bool, *, config: TransformerConfig, **kwargs: Any) -> Any:
    """Transformer Engine's attention; without its own context parallelism where our exchange surrounds it."""
    from megatron.core.extensions.transformer_engine import TEDotProductAttention

    if exchange_outside:
        config = copy.copy(config)
        config.context_parallel_size = 1
        kwargs.pop("cp_comm_type", None)
    return TEDotProductAttention(config=config, **kwargs)


@dataclass(frozen=True)
class CrossAttentionSpec:
    """Attention to contexts in a layer."""

    context_widths: tuple[int, ...]
    """Features of each context."""
    norm: Any = IdentityOp
    """Before it."""
    qk_norm: Any = IdentityOp
    """Of its queries and keys."""


def modulated_layer_spec(
    backend: Backend,
    *,
    embedding_width: int,
    kinds: int,
    qk_norm: Any,
    cp_comm_type: str,
    norm: Any = None,
    modulation: Any = Modulation,
    cross_attention: CrossAttentionSpec | None = None,
) -> ModuleSpec:
    """The spec of `ModulatedLayer` with the backend's parts.

    Args:
        backend: whose linear layers, and kernel of the self-attention.
        embedding_width: of the conditioning's embedding.
        kinds: of tokens, with modulation vectors of their own.
        qk_norm: of the self-attention's queries and keys; called with (config, hidden_size, eps). None: none.
        cp_comm_type: `--cp-comm-type`.
        norm: before attention and MLP; None: the backend's layer norm.
        modulation: where the vectors come from, `Modulation` or `TableModulation`.
        cross_attention: None: there is none.
    """
    norm = norm or norm_class(backend)
    column: Any = ColumnParallelLinear
    row: Any = RowParallelLinear
    core: Any = SDPACoreAttention
    if backend == "transformer_engine":
        from megatron.core.extensions.transformer_engine import TEColumnParallelLinear, TERowParallelLinear

        column, row = TEColumnParallelLinear, TERowParallelLinear
        core = partial(_te_core_attention, cp_comm_type not in ("p2p", "a2a+p2p"))
    submodules = TransformerLayerSubmodules(
        input_layernorm=norm,
        self_attention=ModuleSpec(
            module=VideoSelfAttention,
            params={"attn_mask_type": AttnMaskType.no_mask},
            submodules=SelfAttentionSubmodules(
                linear_qkv=column,
                core_attention=core,
                linear_proj=row,
                q_layernorm=qk_norm,
                k_layernorm=qk_norm,
            ),
        ),
        pre_mlp_layernorm=norm,
        mlp=ModuleSpec(module=MLP, submodules=MLPSubmodules(linear_fc1=column, linear_fc2=row)),
    )
    if cross_attention is not None:
        submodules.pre_cross_attn_layernorm = cross_attention.norm
        submodules.cross_attention = ModuleSpec(
            module=CrossAttention,
            params={"context_widths": cross_attention.context_widths},
            submodules=CrossAttentionSubmodules(
                linear_q=column,
                linear_kv=column,
                linear_proj=row,
                q_layernorm=cross_attention.qk_norm,
                k_layernorm=cross_attention.qk_norm,
            ),
        )
    return ModuleSpec(
        module=ModulatedLayer,
        params={"embedding_width": embedding_width, "kinds": kinds, "modulation": modulation},
        submodules=submodules,
    )


_WITH_EXTRA_STATE = re.compile(r".*(linear_qkv|linear_q|linear_proj|linear_fc[12]|modulation\.linear|kv\.\d+\.linear)")


def keeps_extra_state(module: str) -> bool:
    """Whether a module, by its name in the model, is one of mcore's linear layers, which keep an (empty, but for FP8)
    extra state beside weight and bias."""
    return _WITH_EXTRA_STATE.fullmatch(module) is not None

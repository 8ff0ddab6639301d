"""The layers of STDiT2 and STDiT3.

Shape letters: S tokens of this rank, B micro-batch, D hidden width.
"""

from typing import Any

from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.spec_utils import ModuleSpec, build_module
from torch import Tensor, nn

from vidtron.models.layers.conditioning import Conditioning
from vidtron.models.layers.layer import ModulatedLayer
from vidtron.models.layers.modulation import TableModulation
from vidtron.models.layers.norms import RMSNorm, gated_residual, modulate
from vidtron.models.layers.specs import Backend, CrossAttentionSpec, modulated_layer_spec
from vidtron.models.stdit.attention import AxesConditioning, SpatialAttention, TemporalAttention
from vidtron.models.stdit.config import STDiTConfig


class PlainLayerNorm(nn.LayerNorm):
    """Torch's layer norm without weights, as megatron-core builds norms."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-6):
        super().__init__(hidden_size, eps=eps, elementwise_affine=False)


class FrameModulatedLayer(ModulatedLayer):
    """A layer whose vectors are those of each frame, wherever in space: a frame that is given has another time."""

    def modulate(self, x_SBD: Tensor, shift: Tensor, scale: Tensor, conditioning: Conditioning) -> Tensor:
        """Normed hidden states, modulated by frame."""
        return modulate_frames(x_SBD, shift, scale, conditioning)

    def add_gated(
        self, hidden_SBD: Tensor, gate: Tensor, update: Tensor, bias: Tensor | None, conditioning: Conditioning
    ) -> Tensor:
        """hidden + gate * (update + bias)."""
        assert isinstance(conditioning, AxesConditioning)
        axes = conditioning.split
        hidden, update = axes.by_frame(hidden_SBD), axes.by_frame(update)
        return axes.by_token(gated_residual(hidden, gate, update, bias, conditioning.segments))


def modulate_frames(x_SBD: Tensor, shift: Tensor, scale: Tensor, conditioning: Conditioning) -> Tensor:
    """x * (1 + scale) + shift with the vectors of each token's frame."""
    assert isinstance(conditioning, AxesConditioning)
    axes = conditioning.split
    return axes.by_token(modulate(axes.by_frame(x_SBD), shift, scale, conditioning.segments))


class STDiT2Layer(FrameModulatedLayer):
    """Spatial attention, temporal attention, texts and MLP; the temporal attention has vectors of its own."""

    def __init__(self, config: TransformerConfig, *args: Any, temporal_attention: ModuleSpec, **kwargs: Any):
        super().__init__(config, *args, **kwargs)
        groups = kwargs["pg_collection"]
        options = {"cp_comm_type": config.cp_comm_type} if config.context_parallel_size > 1 else {}
        self.temporal_attention = build_module(
            temporal_attention, config=config, layer_number=self.layer_number, pg_collection=groups, **options
        )
        self.temporal_modulation = TableModulation(
            config, embedding_width=3 * config.hidden_size, vectors=3, kinds=1, tp=groups.tp
        )

    def forward(self, hidden_SBD: Tensor, conditioning: Conditioning) -> Tensor:  # type: ignore[override]
        """[S, B, D] -> [S, B, D]."""
        assert isinstance(conditioning, AxesConditioning) and conditioning.temporal_embedding_TBE is not None
        vectors = self.modulation(conditioning.embedding_TBE)
        hidden_SBD = self.add_attention(self.self_attention, hidden_SBD, vectors[:3], conditioning)
        temporal = self.temporal_modulation(conditioning.temporal_embedding_TBE)
        hidden_SBD = self.add_attention(self.temporal_attention, hidden_SBD, temporal, conditioning)
        return self.add_texts_and_mlp(hidden_SBD, vectors[3:], conditioning)


class STDiT3Pair(MegatronModule):
    """A layer with spatial and one with temporal attention, which a pipeline stage has together."""

    def __init__(self, config: TransformerConfig, *, spatial: ModuleSpec, temporal: ModuleSpec, **kwargs: Any):
        super().__init__(config=config)
        self.spatial = build_module(spatial, config=config, **kwargs)
        self.temporal = build_module(temporal, config=config, **kwargs)
        self.layer_number = self.spatial.layer_number

    def forward(self, hidden_SBD: Tensor, conditioning: Conditioning) -> Tensor:
        """[S, B, D] -> [S, B, D]."""
        return self.temporal(self.spatial(hidden_SBD, conditioning), conditioning)


def layer_spec(network: STDiTConfig, backend: Backend, cp_comm_type: str) -> ModuleSpec:
    """The spec of one layer, or of one pair."""
    spatial = _one_layer(network, backend, cp_comm_type, _spatial)
    temporal = _one_layer(network, backend, cp_comm_type, _temporal)
    if network.pairs:
        return ModuleSpec(module=STDiT3Pair, params={"spatial": spatial, "temporal": temporal})
    spatial.module = STDiT2Layer
    spatial.params["temporal_attention"] = temporal.submodules.self_attention
    return spatial


def _one_layer(network: STDiTConfig, backend: Backend, cp_comm_type: str, place: Any) -> ModuleSpec:
    spec = modulated_layer_spec(
        backend,
        embedding_width=6 * network.hidden_size,
        kinds=1,
        qk_norm=RMSNorm if network.qk_norm else None,
        cp_comm_type=cp_comm_type,
        norm=PlainLayerNorm,
        modulation=TableModulation,
        cross_attention=CrossAttentionSpec((network.hidden_size,)),
    )
    spec.module = FrameModulatedLayer
    place(network, spec.submodules.self_attention)
    return spec


def _spatial(network: STDiTConfig, attention: ModuleSpec) -> None:
    attention.module = SpatialAttention


def _temporal(network: STDiTConfig, attention: ModuleSpec) -> None:
    attention.module = TemporalAttention
    attention.params = {
        "attn_mask_type": AttnMaskType.no_mask,
        "rotary_before_norm": network.rotary_before_norm,
    }

"""A transformer layer whose norms are modulated by the time embedding (adaLN; DiT, arXiv:2212.09748).

Shape letters: S tokens of this rank, B micro-batch, D hidden width.
"""

from typing import Any

from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules
from torch import Tensor

from vidtron.models.layers.bias import add_bias
from vidtron.models.layers.conditioning import Conditioning
from vidtron.models.layers.initialization import mark_sections
from vidtron.models.layers.mlp import run_mlp
from vidtron.models.layers.modulation import Modulation
from vidtron.models.layers.norms import gated_residual, modulate
from vidtron.models.layers.recompute import Recomputed


class ModulatedLayer(TransformerLayer):
    """Attention and MLP, each behind a modulated norm and a gate; between them attention to texts, if the spec has it.

    mcore builds the parts (norms, attention, MLP) from the spec; the order in which they run is CogVideoX's
    (arXiv:2408.06072 section 2.2, expert adaptive layer norm), that of the cross-attention PixArt's (arXiv:2310.00426,
    figure 4): behind a norm without modulation, which may be none, and added without a gate. The cheap parts are
    recomputed in the backward pass; under FP8 the inputs of the linear layers are left to Transformer Engine, which
    keeps only their FP8 copies.
    """

    def __init__(
        self,
        config: TransformerConfig,
        submodules: TransformerLayerSubmodules,
        *,
        embedding_width: int,
        kinds: int,
        pg_collection: Any,
        modulation: Any = Modulation,
        **kwargs: Any,
    ):
        super().__init__(config=config, submodules=submodules, pg_collection=pg_collection, **kwargs)
        self.modulation = modulation(
            config,
            embedding_width=embedding_width,
            vectors=6,
            kinds=kinds,
            tp=pg_collection.tp,
        )
        if config.gated_linear_unit:
            for parameter in self.mlp.linear_fc1.parameters():
                mark_sections(parameter, 2)
        self.attends_to_contexts = not isinstance(self.cross_attention, IdentityOp)
        self.recompute_linear_inputs = not config.fp8

    def forward(self, hidden_SBD: Tensor, conditioning: Conditioning) -> Tensor:  # type: ignore[override]
        """Run the layer on this rank's tokens: [S, B, D] -> [S, B, D]."""
        vectors = self.modulation(conditioning.embedding_TBE, conditioning.samples)
        hidden_SBD = self.add_attention(self.self_attention, hidden_SBD, vectors[:3], conditioning)
        return self.add_texts_and_mlp(hidden_SBD, vectors[3:], conditioning)

    def add_attention(
        self, attention: Any, hidden_SBD: Tensor, vectors: tuple[Tensor, ...], conditioning: Conditioning
    ) -> Tensor:
        """The hidden states with an attention's result added; `vectors`: its shift, scale and gate."""
        shift, scale, gate = vectors
        y = self._modulated(self.input_layernorm, hidden_SBD, shift, scale, conditioning)
        with y.not_kept():
            update, bias = attention(y.value, conditioning)
        return self.add_gated(hidden_SBD, gate, update, bias, conditioning)

    def add_texts_and_mlp(self, hidden_SBD: Tensor, vectors: tuple[Tensor, ...], conditioning: Conditioning) -> Tensor:
        """The hidden states with what texts say and the MLP's result added; `vectors`: its shift, scale and gate."""
        if self.attends_to_contexts:
            update, bias = self.cross_attention(self.pre_cross_attn_layernorm(hidden_SBD), conditioning)
            hidden_SBD = hidden_SBD + add_bias(update, bias)

        shift, scale, gate = vectors
        y = self._modulated(self.pre_mlp_layernorm, hidden_SBD, shift, scale, conditioning)
        with y.not_kept():
            update, bias = run_mlp(self.mlp, y.value, conditioning.samples, recompute=self.recompute_linear_inputs)
        return self.add_gated(hidden_SBD, gate, update, bias, conditioning)

    def modulate(self, x_SBD: Tensor, shift: Tensor, scale: Tensor, conditioning: Conditioning) -> Tensor:
        """Normed hidden states, modulated; a function of its tensors alone, for it runs again in the backward pass."""
        return modulate(x_SBD, shift, scale, conditioning.segments)

    def add_gated(
        self, hidden_SBD: Tensor, gate: Tensor, update: Tensor, bias: Tensor | None, conditioning: Conditioning
    ) -> Tensor:
        """hidden + gate * (update + bias)."""
        return gated_residual(hidden_SBD, gate, update, bias, conditioning.segments)

    def _modulated(
        self, norm: Any, hidden_SBD: Tensor, shift: Tensor, scale: Tensor, conditioning: Conditioning
    ) -> Recomputed:
        return Recomputed(
            lambda x, b, w: self.modulate(norm(x), b, w, conditioning),
            hidden_SBD,
            shift,
            scale,
            enabled=self.recompute_linear_inputs,
        )

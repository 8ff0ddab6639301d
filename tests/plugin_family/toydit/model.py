"""The network.

Shape letters: B micro-batch, T C H W latent frames, channels, height, width, V tokens, S tokens of this rank, L text
tokens, E features.
"""

import math
from typing import Any

import torch
from megatron.core.transformer import TransformerConfig
from torch import Tensor, nn
from torch.nn.functional import silu

from toydit import names
from toydit.config import GEOMETRY, ToyConfig
from vidtron.config.run import RunConfig
from vidtron.models.inputs import ModelInput
from vidtron.models.layers import initialization as init
from vidtron.models.layers import lora
from vidtron.models.layers.chunk import TransformerChunk
from vidtron.models.layers.conditioning import Conditioning, Context, Samples, Segment
from vidtron.models.layers.embeddings import ScalarEmbedding, sincos_3d
from vidtron.models.layers.modulation import TableModulation, shared_vectors
from vidtron.models.layers.norms import AllHeadsRMSNorm, RMSNorm, mark_sequence_parallel, modulate
from vidtron.models.layers.specs import Backend, CrossAttentionSpec, modulated_layer_spec
from vidtron.models.lora_targets import chosen, parts_of
from vidtron.parallel import Groups
from vidtron.parallel.tokens import gather_sequence


class ToyDiT(TransformerChunk):
    """Noisy latents, timesteps and texts -> noise, and the variance's share of the range, for each latent."""

    REPLICATED = ("time_embedding", "pooled", "vectors", "texts")

    def __init__(self, config: TransformerConfig, groups: Groups, run: RunConfig, backend: Backend, **place: Any):
        network: ToyConfig = run.network
        super().__init__(config, groups, **place)
        self.network, dtype, hidden = network, config.params_dtype, network.hidden_size
        self.time_embedding = ScalarEmbedding(config, hidden, network.time_embed_dim)
        self.pooled = nn.Linear(network.texts[1].pooled_width, network.time_embed_dim, dtype=dtype)
        self.vectors = nn.Linear(network.time_embed_dim, 6 * hidden, dtype=dtype)
        self.texts = nn.ModuleList(nn.Linear(text.width, hidden, dtype=dtype) for text in network.texts)
        self.mark_replicated()
        if self.pre_process:
            self.patch_proj = nn.Linear(GEOMETRY.channels, hidden, dtype=dtype)
            mark_sequence_parallel(self.patch_proj, config)

        def over_all_heads(config: TransformerConfig, hidden_size: int, eps: float) -> AllHeadsRMSNorm:
            return AllHeadsRMSNorm(config, hidden_size, eps, tp=groups.tp)

        layer = modulated_layer_spec(
            backend,
            embedding_width=6 * hidden,
            kinds=1,
            qk_norm=names.as_class(over_all_heads),
            cp_comm_type=config.cp_comm_type,
            norm=RMSNorm,
            modulation=TableModulation,
            cross_attention=CrossAttentionSpec((hidden, hidden), RMSNorm, names.as_class(over_all_heads)),
        )
        self.decoder = self.build_decoder(layer, RMSNorm)
        if self.post_process:
            self.final_table = TableModulation(config, embedding_width=2 * hidden, vectors=2, kinds=1, tp=groups.tp)
            self.proj = nn.Linear(hidden, 2 * GEOMETRY.channels, dtype=dtype)
            mark_sequence_parallel(self.proj, config)
        if run.adaptation.lora_rank is not None:
            targets = chosen(names.LORA_TARGETS, run.adaptation.lora_target_modules)
            lora.attach(self.decoder.layers, parts_of(targets), run.adaptation, seed=run.training.seed, tp=groups.tp)
        self.to(groups.device)
        init.initialize(self, self._init_rule, seed=run.training.seed, tp=groups.tp)

    def forward(self, inputs: ModelInput) -> Tensor:
        """Hidden states, or on the last chunk [B, T, 2C, H, W] in fp32."""
        noisy_BTCHW, texts, dtype = inputs.noisy_BTCHW, inputs.conditions.texts, self.config.params_dtype
        B, T, C, H, W = noisy_BTCHW.shape
        split = self.split_of(T * H * W)
        embedding_BE = self.time_embedding(inputs.timesteps) + self.pooled(texts[1].pooled_BE)
        vectors_TBE = shared_vectors(self.vectors(silu(embedding_BE))[None], self.config, self.groups.tp)
        contexts = tuple(
            Context(projection(text.states_BLE).transpose(0, 1), text.mask_BL)
            for projection, text in zip(self.texts, texts, strict=True)
        )
        everything = (Segment(0, split.length),)
        samples = None if inputs.positions is None else Samples(inputs.positions, split)
        conditioning = Conditioning(vectors_TBE, everything, split.tokens, samples=samples, contexts=contexts)
        hidden_SBD = None
        if self.pre_process:
            first, last = split.rows_of(0, split.tokens)
            patches_VBC = noisy_BTCHW.permute(1, 3, 4, 0, 2).flatten(0, 2)
            positions_VD = sincos_3d(T, H, W, self.network.hidden_size, 1.0)
            own_SBD = self.patch_proj(patches_VBC[first:last].to(dtype)) + positions_VD[first:last, None].to(dtype)
            hidden_SBD = torch.cat((own_SBD, own_SBD.new_zeros(split.length - len(own_SBD), *own_SBD.shape[1:])))
        hidden_SBD = self.decoder(hidden_SBD, conditioning)
        if not self.post_process:
            return hidden_SBD
        shift, scale = self.final_table(vectors_TBE[..., : 2 * self.network.hidden_size])
        out_SBC = self.proj(modulate(hidden_SBD, shift, scale, everything))
        out_VBC = gather_sequence(out_SBC, split, tp=self.groups.tp, cp=self.groups.cp)
        return out_VBC.view(T, H, W, B, 2 * C).permute(3, 0, 4, 1, 2).float()

    def _init_rule(self, name: str) -> init.Rule:
        if lora.is_adapter(name):
            return lora.initial(name)
        if name.endswith("bias"):
            return init.constant(0.0)
        if "norm" in name:
            return init.constant(1.0)
        return init.normal(0.5 / math.sqrt(self.network.hidden_size))

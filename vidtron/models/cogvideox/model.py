"""The CogVideoX network (arXiv:2408.06072), one pipeline chunk of it.

Shape letters: B micro-batch, T C H W latent frames, channels, height, width, L text tokens, E text width (in
`embedding_TBE`: width of the time embedding), S tokens of this rank, D hidden width.
"""

import math

import torch
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.spec_utils import ModuleSpec
from torch import Tensor
from torch.nn.functional import silu

from vidtron.config.lora import AdaptationConfig
from vidtron.models.cogvideox.config import TEXT, VIDEO, CogVideoXConfig
from vidtron.models.cogvideox.embeddings import TokenEmbedding, unpatchify
from vidtron.models.cogvideox.layers import FinalLayer
from vidtron.models.cogvideox.lora_names import TARGETS
from vidtron.models.inputs import ModelInput
from vidtron.models.layers import initialization as init
from vidtron.models.layers import lora
from vidtron.models.layers.chunk import TransformerChunk
from vidtron.models.layers.conditioning import Conditioning, Rotary, Samples
from vidtron.models.layers.embeddings import ScalarEmbedding
from vidtron.models.layers.frame_times import FrameTimes
from vidtron.models.layers.rotary import angles_3d, rotary_table
from vidtron.models.layers.specs import Backend, modulated_layer_spec, norm_class, with_eps
from vidtron.models.lora_targets import chosen, parts_of
from vidtron.parallel import Groups
from vidtron.parallel.tokens import TokenSplit, gather_sequence

OFS_VALUE = 2.0
"""The one value CogVideoX 1.5 image-to-video was trained and is sampled with."""
QK_NORM_EPS = 1e-6


class CogVideoX(TransformerChunk):
    """Noisy latents, timesteps and text -> velocity of the latents.

    Tokens are [text | video], both through the same layers with modulation vectors of their own. Every rank of a
    replica receives the whole micro-batch and takes its own tokens of it; between pipeline stages only hidden states
    travel, and each stage embeds the timesteps itself.
    """

    REPLICATED = ("time_embedding", "ofs_embedding")

    def __init__(
        self,
        network: CogVideoXConfig,
        config: TransformerConfig,
        groups: Groups,
        *,
        backend: Backend,
        seed: int,
        adaptation: AdaptationConfig | None = None,
        pre_process: bool = True,
        post_process: bool = True,
        vp_stage: int | None = None,
    ):
        super().__init__(config, groups, pre_process=pre_process, post_process=post_process, vp_stage=vp_stage)
        self.network = network
        width = network.time_embed_dim
        self.time_embedding = ScalarEmbedding(config, network.hidden_size, width)
        if network.ofs_embedding:
            self.ofs_embedding = ScalarEmbedding(config, width, width)
        self.mark_replicated()
        if pre_process:
            self.embedding = TokenEmbedding(network, config)
        self.decoder = self.build_decoder(self._layer_spec(backend), norm_class(backend))
        if post_process:
            self.final = FinalLayer(
                config,
                norm_class(backend),
                embedding_width=width,
                patch_values=network.out_channels * network.patch_size_t * network.patch_size**2,
                eps=network.final_norm_eps,
                tp=groups.tp,
            )
        if adaptation is not None and adaptation.lora_rank is not None:
            parts = parts_of(chosen(TARGETS, adaptation.lora_target_modules))
            lora.attach(self.decoder.layers, parts, adaptation, seed=seed, tp=groups.tp)
        self.to(groups.device)
        init.initialize(self, self._init_rule, seed=seed, tp=groups.tp)

    def _layer_spec(self, backend: Backend) -> ModuleSpec:
        return modulated_layer_spec(
            backend,
            embedding_width=self.network.time_embed_dim,
            kinds=2,
            qk_norm=with_eps(norm_class(backend), QK_NORM_EPS),
            cp_comm_type=self.config.cp_comm_type,
        )

    def forward(self, inputs: ModelInput) -> Tensor:
        """Run this chunk.

        Args:
            inputs: of one micro-batch; image latents for the image-to-video networks.

        Returns:
            On the last chunk the velocity, fp32 [B, T, C, H, W], the same on all ranks of the TP and CP groups; else
            the hidden states [S, B, D] for the next chunk.

        Raises:
            ValueError: the frame mask does not fit the latents, or an image-to-video network has no image.
        """
        network = self.network
        noisy_BTCHW, conditions = inputs.noisy_BTCHW, inputs.conditions
        timesteps_B, text_BLE = inputs.timesteps, conditions.texts[0].states_BLE
        shape = (noisy_BTCHW.shape[1], network.out_channels, *noisy_BTCHW.shape[3:])
        grid = network.grid(shape[0], *shape[2:])
        text_length = text_BLE.shape[1]
        split = self.split_of(text_length + math.prod(grid))
        times = FrameTimes.of(inputs.frame_mask_BT, len(timesteps_B), grid[0], network.patch_size_t)
        embedding_TBE = self._time_embeddings(timesteps_B, times, inputs.kept_timestep)
        hidden_SBD = None
        if self.pre_process:
            latents = noisy_BTCHW
            if network.image_conditioned:
                if conditions.image_latents_BTCHW is None:
                    raise ValueError("an image-to-video network needs image latents")
                latents = torch.cat((noisy_BTCHW, conditions.image_latents_BTCHW), dim=2)
            hidden_SBD = self.embedding(latents, text_BLE, split)
        conditioning = Conditioning(
            embedding_TBE,
            times.segments(split, text=(text_length, TEXT), video=VIDEO),
            split.tokens,
            self._rotary(split, text_length, grid),
            None if inputs.positions is None else Samples(inputs.positions, split),
        )
        hidden_SBD = self.decoder(hidden_SBD, conditioning)
        if not self.post_process:
            return hidden_SBD
        patches_SBP = self.final(hidden_SBD, embedding_TBE[:1])
        patches_VBP = gather_sequence(patches_SBP, split, tp=self.groups.tp, cp=self.groups.cp)[text_length:]
        return unpatchify(patches_VBP, shape, network.patch_size_t, network.patch_size).float()

    def _time_embeddings(self, timesteps_B: Tensor, times: FrameTimes, kept_timestep: float) -> Tensor:
        """Input of every modulation: [T, B, E], the samples' own times first."""
        if not times.masked:
            return self._time_embedding(timesteps_B)[None]
        kept = timesteps_B.new_full((1,), kept_timestep, dtype=torch.float32)
        # In one call: what gathers weights or reduces gradients counts the calls of a module.
        own_and_kept = self._time_embedding(torch.cat((timesteps_B, kept)))
        return times.select(own_and_kept[:-1], own_and_kept[-1:])

    def _time_embedding(self, timesteps_B: Tensor) -> Tensor:
        """Input of every modulation, after its SiLU: [B, E]."""
        embedding = self.time_embedding(timesteps_B)
        if self.network.ofs_embedding:
            embedding = embedding + self.ofs_embedding(timesteps_B.new_full((1,), OFS_VALUE, dtype=torch.float32))
        return silu(embedding)

    def _rotary(self, split: TokenSplit, text_length: int, grid: tuple[int, int, int]) -> Rotary | None:
        if self.network.position != "rotary":
            return None
        angles = torch.zeros(split.padded, self.network.head_dim)
        angles[text_length : split.tokens] = angles_3d(*grid, self.network.head_dim)
        return rotary_table(angles, self.config.params_dtype, self.groups.device)

    def _init_rule(self, name: str) -> init.Rule:
        """Initial weights as in SAT's CogVideoX: normal in the layers, smaller at their outputs, Xavier at the
        patches, torch's default for the rest."""
        if lora.is_adapter(name):
            return lora.initial(name)
        network = self.network
        module = name.rsplit(".", 2)[-2] if "." in name else name
        hidden, patch = network.hidden_size, network.patch_size_t * network.patch_size**2
        if name.endswith("positions"):
            return init.normal(network.init_method_std)
        if "norm" in module:
            return init.constant(1.0 if name.endswith("weight") else 0.0)
        if module in ("linear_qkv", "linear_fc1", "linear_proj", "linear_fc2"):
            if name.endswith("bias"):
                return init.constant(0.0)
            output = module in ("linear_proj", "linear_fc2")
            std = network.init_method_std
            return init.normal(std / math.sqrt(2 * network.num_layers) if output else std)
        if module in ("patch_proj", "proj"):
            if name.endswith("bias"):
                return init.constant(0.0)
            fans = {"patch_proj": network.in_channels * patch, "proj": network.out_channels * patch}
            return init.xavier_uniform(hidden, fans[module])
        fan_in = {
            "time_embedding.linear_1": hidden,
            "embedding.text_proj": network.text_width,
        }.get(name.rsplit(".", 1)[0], network.time_embed_dim)
        return init.uniform(1.0 / math.sqrt(fan_in))

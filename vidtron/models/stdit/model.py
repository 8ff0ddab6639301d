"""The networks STDiT2 and STDiT3 of Open-Sora 1.1 and 1.2, one pipeline chunk of them.

Shape letters: B micro-batch, T C H W latent frames, channels, height, width, S spatial tokens of a frame, L tokens of
this rank, P values of a patch, D hidden width, R rows of times (which of a clip's two times each sample has).
"""

import math
from typing import Any, cast

import torch
from megatron.core.transformer import TransformerConfig
from torch import Tensor, nn

from vidtron.config.run import RunConfig
from vidtron.models.inputs import ModelInput
from vidtron.models.layers import initialization as init
from vidtron.models.layers.chunk import TransformerChunk
from vidtron.models.layers.conditioning import Conditioning, Context, Rotary
from vidtron.models.layers.frame_times import FrameTimes
from vidtron.models.layers.modulation import TableModulation, shared_vectors
from vidtron.models.layers.norms import mark_sequence_parallel
from vidtron.models.layers.rotary import axis_angles, rotary_table
from vidtron.models.layers.specs import Backend
from vidtron.models.stdit.attention import AxesConditioning
from vidtron.models.stdit.checkpoint_names import initial_rules
from vidtron.models.stdit.config import STDiTConfig
from vidtron.models.stdit.embeddings import TextProjection, TimeVectors, patchify, positions, unpatchify
from vidtron.models.stdit.layers import PlainLayerNorm, layer_spec, modulate_frames
from vidtron.parallel import Groups, named_generator
from vidtron.parallel.axes import AxisSplit
from vidtron.parallel.tokens import sequence_multiple


class STDiT(TransformerChunk):
    """Noisy latents, timesteps, texts, sizes and rates -> noise or velocity of the latents, and their variance.

    Every rank of a replica receives the whole micro-batch and takes its own tokens of it; between pipeline stages only
    hidden states travel, and each stage embeds times, sizes and texts itself. What the network says of given frames
    means nothing; they are normed once, which Open-Sora does twice by mistake.
    """

    REPLICATED = ("times", "text_projection")

    def __init__(self, config: TransformerConfig, groups: Groups, run: RunConfig, backend: Backend, **place: Any):
        network = cast(STDiTConfig, run.network)
        super().__init__(config, groups, **place)
        self.network, hidden, dtype = network, network.hidden_size, config.params_dtype
        self.times = TimeVectors(network, config)
        self.text_projection = TextProjection(network, config)
        self.mark_replicated()
        if self.pre_process:
            self.patch_proj = nn.Linear(network.in_channels * network.patch_size**2, hidden, dtype=dtype)
            mark_sequence_parallel(self.patch_proj, config)
        self.decoder = self.build_decoder(layer_spec(network, backend, config.cp_comm_type), PlainLayerNorm)
        if self.post_process:
            self.final_modulation = TableModulation(
                config, embedding_width=2 * hidden, vectors=2, kinds=1, tp=groups.tp
            )
            self.proj = nn.Linear(hidden, network.out_channels * network.patch_size**2, dtype=dtype)
            mark_sequence_parallel(self.proj, config)
        self.to(groups.device)
        seed = run.training.seed
        init.initialize(self, initial_rules(network), seed=seed, tp=groups.tp)
        null_LE = self.text_projection.null_LE
        drawn = torch.randn(null_LE.shape, generator=named_generator(seed, "text_projection.null_LE"))
        null_LE.copy_(drawn / math.sqrt(network.text_width))

    def forward(self, inputs: ModelInput) -> Tensor:
        """Run this chunk.

        Args:
            inputs: of one micro-batch, with sizes and rates, and one text.

        Returns:
            On the last chunk [B, T, C, H, W] in fp32, the same on all ranks of the TP and CP groups; else the hidden
            states [L, B, D] for the next chunk.

        Raises:
            ValueError: sizes or rates are missing, or the frame mask does not fit the latents.
        """
        noisy_BTCHW, network = inputs.noisy_BTCHW, self.network
        T, H, W = (noisy_BTCHW.shape[dim] for dim in (1, 3, 4))
        grid = network.grid(H, W)
        axes = self._axes(T, math.prod(grid))
        times = FrameTimes.of(inputs.frame_mask_BT, len(noisy_BTCHW), T, 1)
        layers, last, temporal = self._vectors(inputs, times)
        text = inputs.conditions.texts[0]
        conditioning = AxesConditioning(
            layers,
            times.frame_segments(axes.first_frame, axes.first_frame + axes.own_frames),
            T * math.prod(grid),
            self._rotary(T),
            contexts=(Context(self.text_projection(text), text.mask_BL),),
            axes=axes,
            temporal_embedding_TBE=temporal,
        )
        hidden_LBD = self._embedded(inputs, axes, grid) if self.pre_process else None
        hidden_LBD = self.decoder(hidden_LBD, conditioning)
        if not self.post_process:
            return hidden_LBD
        shift, scale = self.final_modulation(last.repeat(1, 1, 2))
        patches_LBP = self.proj(modulate_frames(hidden_LBD, shift, scale, conditioning))
        patches_TSBP = axes.gather(patches_LBP, tp=self.groups.tp, cp=self.groups.cp)
        return unpatchify(patches_TSBP, H, W, network.patch_size).float()

    def token_layout(self, conditioning: Conditioning) -> AxisSplit:
        """The tokens are ordered by place and frame."""
        assert isinstance(conditioning, AxesConditioning)
        return conditioning.split

    def _axes(self, frames: int, spaces: int) -> AxisSplit:
        tp, parallel = self.groups.tp, self.config.sequence_parallel
        multiple = sequence_multiple(tp=tp.size(), cp=1, sequence_parallel=parallel, fp8=bool(self.config.fp8))
        return AxisSplit.of_rank(
            frames, spaces, multiple=multiple, tp=tp, cp=self.groups.cp, sequence_parallel=parallel
        )

    def _embedded(self, inputs: ModelInput, axes: AxisSplit, grid: tuple[int, int]) -> Tensor:
        """This rank's tokens, with their positions: [L, B, D]."""
        network, dtype = self.network, self.patch_proj.weight.dtype
        patches = axes.own(patchify(inputs.noisy_BTCHW, network.patch_size).to(dtype))
        size_B3 = inputs.conditions.size_B3
        assert size_B3 is not None
        sides_B2 = size_B3[:, 1:].double()
        if network.opensora_bf16_rounding:
            sides_B2 = sides_B2.bfloat16().double()
        scale_B = sides_B2.prod(1).sqrt() / network.position_side
        table_SBD = positions(*grid, network.hidden_size, scale_B, network.opensora_bf16_rounding)
        return (self.patch_proj(patches) + axes.own(table_SBD[None].to(dtype))).flatten(0, 1)

    def _vectors(self, inputs: ModelInput, times: FrameTimes) -> tuple[Tensor, Tensor, Tensor | None]:
        """Vectors of the layers [R, B, 6 D], of the last one [R, B, D] and of temporal attention [R, B, 3 D]."""
        size_B3, fps_B, own_B = inputs.conditions.size_B3, inputs.conditions.fps_B, inputs.timesteps
        if size_B3 is None or fps_B is None:
            raise ValueError("STDiT needs the size and the rate of the clips")
        kept_B = torch.full_like(own_B, inputs.kept_timestep, dtype=torch.float32)
        # In one call: what gathers weights or reduces gradients counts the calls of a module.
        both = torch.cat((own_B.float(), kept_B)) if times.masked else own_B

        def rows(vectors: Tensor | None) -> Any:
            if vectors is None:
                return None
            selected = times.select(*vectors.chunk(2)) if times.masked else vectors[None]
            return shared_vectors(selected, self.config, self.groups.tp)

        layers, last, temporal = (rows(vectors) for vectors in self.times(both, size_B3, fps_B))
        return layers, last, temporal

    def _rotary(self, frames: int) -> Rotary:
        """Of all frames, in fp32 whatever the network computes in."""
        angles = axis_angles(torch.arange(frames), self.network.head_dim)
        if self.network.opensora_bf16_rounding:
            angles = (
                torch.arange(frames)[:, None] * axis_angles(torch.ones(1), self.network.head_dim).bfloat16().float()
            )
        return rotary_table(angles, torch.float32, self.groups.device)

"""diffusers' own network, run with vidtron's weights.

Shape letters: B samples, T C H W latent frames, channels, height, width.
"""

import dataclasses
import re
from functools import partial

import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from torch import Tensor, nn

from vidtron.models.cogvideox.checkpoint_names import POSITIONS, diffusers_rows
from vidtron.models.cogvideox.config import TEMPORAL_RATIO, CogVideoXConfig
from vidtron.models.cogvideox.diffusers_format import to_diffusers
from vidtron.models.cogvideox.model import OFS_VALUE
from vidtron.models.foreign import ReadTensor, SampleSize
from vidtron.models.inputs import ModelInput
from vidtron.models.streamed import Streamed

_BLOCK = "transformer_blocks.0."


@torch.no_grad()
def diffusers_output(network: CogVideoXConfig, read: ReadTensor, inputs: ModelInput) -> Tensor:
    """Output of diffusers' network, fp32 [B, T, C, H, W]; one layer is in memory at a time.

    It is configured for clips of the input's size: for fewer frames than `sample_frames` diffusers replaces a learned
    position table by the fixed one (models/embeddings.py, CogVideoXPatchEmbed); here it gets that table's first rows.
    """
    single = dataclasses.replace(network, num_layers=1)
    latents, conditions = inputs.noisy_BTCHW, inputs.conditions
    sample = SampleSize((latents.shape[1] - 1) * TEMPORAL_RATIO + 1, *latents.shape[3:])
    model = CogVideoXTransformer3DModel.from_config(to_diffusers(single, sample)).eval()
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    rows = diffusers_rows(network)

    def load(prefix: str) -> None:
        """The layer's weights, or with no prefix those of no layer."""
        for row in rows:
            if row.ours.startswith(prefix) if prefix else not row.ours.startswith("decoder.layers."):
                for name, tensor in zip(row.theirs, row.rule.to_theirs(read(row.ours), network), strict=True):
                    target = tensors[re.sub(r"^transformer_blocks\.\d+\.", _BLOCK, name)]
                    target.copy_(tensor[:, : target.shape[1]] if row.ours == POSITIONS else tensor)

    load("")
    only = model.transformer_blocks[0]
    model.transformer_blocks = nn.ModuleList(
        [Streamed(only, partial(load, f"decoder.layers.{i}.")) for i in range(network.num_layers)]
    )
    t, h, w = network.grid(latents.shape[1], latents.shape[3], latents.shape[4])
    rotary = None
    if network.position == "rotary":
        rotary = get_3d_rotary_pos_embed(
            network.head_dim, None, (h, w), t, grid_type="slice", max_size=(h, w), device=torch.device("cpu")
        )
    if conditions.image_latents_BTCHW is not None:
        latents = torch.cat((latents, conditions.image_latents_BTCHW), dim=2)
    return model(
        hidden_states=latents,
        encoder_hidden_states=conditions.texts[0].states_BLE,
        timestep=inputs.timesteps,
        ofs=torch.full((1,), OFS_VALUE) if network.ofs_embedding else None,
        image_rotary_emb=rotary,
    ).sample

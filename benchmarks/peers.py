"""The same network in diffusers."""

from typing import Any

import torch
from common import SyntheticBatch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed

from vidtron.config.run import RunConfig
from vidtron.models.registry import family_of


def diffusers_network(run: RunConfig) -> CogVideoXTransformer3DModel:
    """CogVideoXTransformer3DModel of the run's size."""
    network = run.network
    height, width = family_of(run.model).latent_shape(run)[2:]
    torch.manual_seed(0)
    return CogVideoXTransformer3DModel(
        num_attention_heads=network.num_attention_heads,
        attention_head_dim=network.head_dim,
        in_channels=network.in_channels,
        out_channels=network.out_channels,
        time_embed_dim=network.time_embed_dim,
        text_embed_dim=network.text_width,
        num_layers=network.num_layers,
        sample_width=width,
        sample_height=height,
        sample_frames=run.data.num_frames,
        patch_size=network.patch_size,
        max_text_seq_length=network.text_length,
        use_rotary_positional_embeddings=network.position == "rotary",
    ).train()


def diffusers_step_inputs(run: RunConfig, batch: SyntheticBatch) -> dict[str, Any]:
    """Keyword arguments of its forward for the batch."""
    network = run.network
    frames, height, width = network.grid(*(batch.noisy.shape[i] for i in (1, 3, 4)))
    rotary = get_3d_rotary_pos_embed(
        network.head_dim, ((0, 0), (height, width)), (height, width), frames, grid_type="linspace"
    )
    return {
        "hidden_states": batch.noisy,
        "encoder_hidden_states": batch.text,
        "timestep": batch.timesteps,
        "image_rotary_emb": rotary,
        "return_dict": False,
    }

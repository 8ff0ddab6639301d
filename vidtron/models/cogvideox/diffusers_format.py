"""CogVideoX in diffusers: config.json of a CogVideoXTransformer3DModel, read and written."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vidtron.models import foreign_values as values
from vidtron.models.cogvideox.checkpoint_names import diffusers_rows
from vidtron.models.cogvideox.config import TEMPORAL_RATIO, CogVideoXConfig
from vidtron.models.cogvideox.sample_size import grid_of_sample
from vidtron.models.foreign import ConfigFolder, ReadTensor, SampleSize, diffusers_version
from vidtron.models.inputs import ModelInput
from vidtron.models.layers.checkpoint_rules import Row, Shape

SETTINGS = {"final_norm_eps": 1e-5}
"""Of all networks in diffusers."""
_FIXED: dict[str, Any] = {
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "dropout": 0.0,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "norm_elementwise_affine": True,
    "norm_eps": SETTINGS["final_norm_eps"],
    "temporal_compression_ratio": TEMPORAL_RATIO,
    "temporal_interpolation_scale": 1.0,
    "timestep_activation_fn": "silu",
}
_LIMITS: dict[str, values.Limit] = {
    "num_layers": values.LAYERS,
    "num_attention_heads": values.HEADS,
    "attention_head_dim": values.HEADS,
    "time_embed_dim": values.WIDTH,
    "in_channels": values.CHANNELS,
    "out_channels": values.CHANNELS,
    "patch_size": values.PATCH,
    "patch_size_t": values.PATCH,
    "max_text_seq_length": values.TEXT_TOKENS,
    "text_embed_dim": values.WIDTH,
    "sample_frames": values.FRAMES,
    "sample_height": values.LATENT_PIXELS,
    "sample_width": values.LATENT_PIXELS,
    "spatial_interpolation_scale": float,
    "use_rotary_positional_embeddings": bool,
    "use_learned_positional_embeddings": bool,
}
_SIZES = ("num_layers", "num_attention_heads", "attention_head_dim")
"""What a config.json must say for its network to be that of its weights, unless that is diffusers' default."""


def from_diffusers(config: Mapping[str, Any]) -> tuple[CogVideoXConfig, SampleSize]:
    """The network of a diffusers `config.json`.

    Raises:
        ValueError: it describes something that vidtron's network is not; all of it is named.
    """
    problems = [
        f"{name}: {config[name]!r}; accepted: {value!r}"
        for name, value in _FIXED.items()
        if config.get(name, value) != value
    ]
    problems += values.wrong_values(config, _LIMITS)
    if config.get("ofs_embed_dim") not in (None, config.get("time_embed_dim", 512)):
        problems.append(f"ofs_embed_dim: {config['ofs_embed_dim']}; accepted: null or time_embed_dim")
    if problems:
        raise ValueError("\n".join(problems))
    config = {name: value for name, value in config.items() if value is not None}
    heads = config.get("num_attention_heads", 30)
    sample = SampleSize(
        config.get("sample_frames", 49), config.get("sample_height", 60), config.get("sample_width", 90)
    )
    network = CogVideoXConfig(
        num_layers=config.get("num_layers", 30),
        hidden_size=heads * config.get("attention_head_dim", 64),
        num_attention_heads=heads,
        time_embed_dim=config.get("time_embed_dim", 512),
        in_channels=config.get("in_channels", 16),
        out_channels=config.get("out_channels") or config.get("in_channels", 16),
        patch_size=config.get("patch_size", 2),
        patch_size_t=config.get("patch_size_t") or 1,
        text_length=config.get("max_text_seq_length", 226),
        text_width=config.get("text_embed_dim", 4096),
        position="rotary" if config.get("use_rotary_positional_embeddings", False) else "sincos",
        spatial_interpolation=config.get("spatial_interpolation_scale", 1.875),
        ofs_embedding=config.get("ofs_embed_dim") is not None,
        final_norm_eps=SETTINGS["final_norm_eps"],
    )
    if config.get("use_learned_positional_embeddings", False):
        network.learned_position_grid = grid_of_sample(sample, network)
    return network, sample


def to_diffusers(network: CogVideoXConfig, sample: SampleSize) -> dict[str, Any]:
    """The `config.json` that `from_pretrained` expects. The final norm's epsilon is diffusers' own, 1e-5."""
    long_patches = network.patch_size_t > 1
    return {
        "_class_name": "CogVideoXTransformer3DModel",
        **_FIXED,
        "attention_head_dim": network.head_dim,
        "in_channels": network.in_channels,
        "max_text_seq_length": network.text_length,
        "num_attention_heads": network.num_attention_heads,
        "num_layers": network.num_layers,
        "ofs_embed_dim": network.time_embed_dim if network.ofs_embedding else None,
        "out_channels": network.out_channels,
        "patch_bias": not long_patches,
        "patch_size": network.patch_size,
        "patch_size_t": network.patch_size_t if long_patches else None,
        "sample_frames": sample.frames,
        "sample_height": sample.height,
        "sample_width": sample.width,
        "spatial_interpolation_scale": network.spatial_interpolation,
        "text_embed_dim": network.text_width,
        "time_embed_dim": network.time_embed_dim,
        "use_learned_positional_embeddings": network.learned_position_grid is not None,
        "use_rotary_positional_embeddings": network.position == "rotary",
    }


class CogVideoXInDiffusers(ConfigFolder[CogVideoXConfig]):
    """Names and configuration of diffusers' network."""

    class_name = "CogVideoXTransformer3DModel"
    settings = SETTINGS
    peer = "diffusers"

    def rows(self, network: CogVideoXConfig) -> list[Row]:
        return diffusers_rows(network)

    def read_config(
        self, config: Mapping[str, Any], shapes: Mapping[str, Shape]
    ) -> tuple[CogVideoXConfig, SampleSize]:
        return from_diffusers(config)

    def write_config(self, network: CogVideoXConfig, sample: SampleSize) -> dict[str, Any]:
        return {**to_diffusers(network, sample), "_diffusers_version": diffusers_version()}

    def untold(self, config: Mapping[str, Any]) -> list[str]:
        return [name for name in _SIZES if config.get(name) is None]

    def peer_output(self, network: CogVideoXConfig, read: ReadTensor, inputs: ModelInput) -> Tensor:
        from vidtron.models.cogvideox.diffusers_peer import diffusers_output  # loads diffusers

        return diffusers_output(network, read, inputs)

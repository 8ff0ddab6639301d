"""The CogVideoX family's configuration and presets.

Imports nothing heavy: the command line reads the presets before torch is needed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from vidtron.config.ranges import Range
from vidtron.models.preset import Preset

TEMPORAL_RATIO, SPATIAL_RATIO = 4, 8
"""Frames and pixels of the video per latent frame and latent pixel."""
VIDEO, TEXT = 0, 1
"""Kinds of tokens, in the order of a layer's modulation vectors on disk."""

_Tokens = Annotated[int, Range(1, 4096)]


@dataclass
class CogVideoXConfig:
    """CogVideoX network"""

    num_layers: Annotated[int, Range(1, 1000)] = 30
    """Transformer layers."""
    hidden_size: Annotated[int, Range(1, 65536)] = 1920
    """Width of the hidden states."""
    num_attention_heads: Annotated[int, Range(1, 4096)] = 30
    """Attention heads; their width is hidden size / heads."""
    time_embed_dim: Annotated[int, Range(1, 65536)] = 512
    """Width of the time embedding."""
    in_channels: Annotated[int, Range(1, 4096)] = 16
    """Channels the network receives: the latent's, and as many again for an image condition."""
    out_channels: Annotated[int, Range(1, 4096)] = 16
    """Channels the network answers with: the latent's, and as many again with --predicted-variance."""
    latent_channels: Annotated[int, Range(1, 4096)] | None = None
    """Channels of the latent; unset: the lesser of the two."""
    patch_size: Annotated[int, Range(1, 64)] = 2
    """Latent pixels per token, in height and in width."""
    patch_size_t: Annotated[int, Range(1, 64)] = 1
    """Latent frames per token."""
    text_length: Annotated[int, Range(1, 65536)] = 226
    """Text tokens; captions are padded or cut to it."""
    text_width: Annotated[int, Range(1, 65536)] = 4096
    """Width of the text encoder's output."""
    position: Literal["sincos", "rotary"] = "sincos"
    """Positions of video tokens: fixed 3D sin/cos added to the input, or 3D rotary in every layer."""
    spatial_interpolation: Annotated[float, Range(0.01, 100)] = 1.875
    """sincos: height and width indices are divided by this."""
    learned_position_grid: tuple[_Tokens, _Tokens, _Tokens] | None = None
    """Frames, height and width (in tokens) of a learned position table, added besides rotary; unset: none."""
    ofs_embedding: bool = False
    """A second scalar embedding, added to the time embedding (CogVideoX 1.5 image-to-video)."""
    init_method_std: Annotated[float, Range(1e-6, 10)] = 0.02
    """Standard deviation of the layers' initial weights; those at a layer's outputs have it divided by the root of
    twice the number of layers."""
    final_norm_eps: Annotated[float, Range(1e-12, 1)] = 1e-6
    """Epsilon of the last modulated norm: 1e-6 in SAT's network, 1e-5 in diffusers'."""

    @property
    def head_dim(self) -> int:
        """Features of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def channels(self) -> int:
        """Number of channels of a latent frame."""
        return min(self.in_channels, self.out_channels) if self.latent_channels is None else self.latent_channels

    @property
    def image_conditioned(self) -> bool:
        """Whether the network receives image latents beside the noisy ones."""
        return self.in_channels == 2 * self.channels

    def grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Tokens in time, height and width of a latent of that size."""
        return frames // self.patch_size_t, height // self.patch_size, width // self.patch_size


_2B = CogVideoXConfig()
_5B = replace(_2B, num_layers=42, hidden_size=3072, num_attention_heads=48, position="rotary")
_1_5 = replace(_5B, patch_size_t=2, text_length=224)
_V1_CLIP = {"num_frames": 49, "height": 480, "width": 720, "fps": 8.0}
_V1_5_CLIP = {"num_frames": 81, "height": 768, "width": 1360, "fps": 16.0}
_5B_LATENTS = {"scale_factor": 0.7}
# 17 frames of 64 x 96: 5 latent frames of 8 x 12, 120 video tokens. Weights of 0.02 would leave so narrow a network
# linear for hundreds of steps.
_TINY = replace(
    _5B,
    num_layers=4,
    hidden_size=64,
    num_attention_heads=4,
    time_embed_dim=64,
    text_length=16,
    text_width=32,
    init_method_std=0.1,
)

_OBJECTIVE = {
    "schedule": "zero-snr",
    "parameterization": "velocity",
    "loss_weighting": "constant",
    "timestep_density": "uniform",
    "text_dropout": 0.1,
    "null_text": "zeros",
    "image_dropout": 0.05,
    "image_noise": True,
    "image_latent_scale": "scaled",
    "image_latent_frames": "first",
}
"""SAT's training of CogVideoX."""


def _preset(name: str, network: CogVideoXConfig, defaults: Mapping[str, Mapping[str, Any]]) -> Preset:
    """A preset with the family's objective, and what of it the model has otherwise."""
    return Preset(name, network, {**defaults, "objective": _OBJECTIVE | {**defaults.get("objective", {})}})


PRESETS = {
    preset.name: preset
    for preset in (
        _preset(
            "cogvideox-2b",
            _2B,
            {"data": _V1_CLIP, "encoders": {"scale_factor": 1.15258426}, "objective": {"noise_shift": 3.0}},
        ),
        _preset("cogvideox-5b", _5B, {"data": _V1_CLIP, "encoders": _5B_LATENTS}),
        _preset(
            "cogvideox-5b-i2v",
            replace(_5B, in_channels=32, learned_position_grid=(13, 30, 45)),
            {"data": _V1_CLIP, "encoders": _5B_LATENTS},
        ),
        _preset("cogvideox-1.5-5b", _1_5, {"data": _V1_5_CLIP, "encoders": _5B_LATENTS}),
        _preset(
            "cogvideox-1.5-5b-i2v",
            replace(_1_5, in_channels=32, ofs_embedding=True),
            {"data": _V1_5_CLIP, "encoders": _5B_LATENTS},
        ),
        _preset(
            "cogvideox-tiny",
            _TINY,
            {
                "data": {"num_frames": 17, "height": 64, "width": 96, "fps": None},
                "encoders": {"scale_factor": 1.0},
                # A network of this size learns clips by heart rather than to denoise them: in nearly all timesteps
                # little of the clip is left.
                "objective": {"noise_shift": 100.0},
                "optimizer": {"lr": 1e-2, "lr_warmup_iters": 10, "lr_decay_style": "cosine", "clip_grad": 1.0},
            },
        ),
    )
}

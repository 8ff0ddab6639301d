"""The STDiT family's configuration and presets.

Imports nothing heavy: the command line reads the presets before torch is needed.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from vidtron.config.geometry import LatentGeometry
from vidtron.config.ranges import Range
from vidtron.models.preset import Preset

SPATIAL_RATIO = 8
"""Pixels of a latent pixel."""


@dataclass
class STDiTConfig:
    """STDiT network"""

    variant: Literal["stdit2", "stdit3"] = "stdit2"
    """stdit2 (Open-Sora 1.1): a layer has spatial and temporal attention and one MLP. stdit3 (1.2): a layer is a pair,
    one of them spatial and one temporal, each with texts and an MLP of its own."""
    num_layers: Annotated[int, Range(1, 1000)] = 28
    """Layers; of stdit3, pairs."""
    hidden_size: Annotated[int, Range(1, 65536)] = 1152
    """Width of the hidden states."""
    num_attention_heads: Annotated[int, Range(1, 4096)] = 16
    """Attention heads; their width is hidden size / heads."""
    in_channels: Annotated[int, Range(1, 4096)] = 4
    """Channels of the latent."""
    out_channels: Annotated[int, Range(1, 4096)] = 8
    """Channels the network answers with: the latent's, and as many again with --predicted-variance."""
    patch_size: Annotated[int, Range(1, 64)] = 2
    """Latent pixels per token, in height and in width; what is missing to whole patches is padded."""
    text_length: Annotated[int, Range(1, 65536)] = 200
    """Text tokens; captions are padded or cut to it, and padding is masked."""
    text_width: Annotated[int, Range(1, 65536)] = 4096
    """Width of the text encoder's output."""
    position_side: Annotated[int, Range(1, 65536)] = 512
    """Side in pixels of the square at which positions have distance 1; they shrink with the clip's resolution
    (Open-Sora's input_sq_size)."""
    qk_norm: bool = True
    """RMS norm of queries and keys."""
    rotary_before_norm: bool = True
    """Temporal attention: queries and keys are rotated before the norm (Open-Sora 1.1), not after it (1.2)."""
    aspect_ratio: Literal["width/height", "height/width"] = "width/height"
    """stdit2: what it is told of the clip's shape; 1.1 was trained with the one and sampled with the other."""
    opensora_bf16_rounding: bool = False
    """Round timesteps, sizes, rates and the tables' frequencies to bf16, as Open-Sora does where it computes in bf16;
    for comparison with it alone, for it makes 800 of timestep 801."""

    @property
    def head_dim(self) -> int:
        """Features of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def pairs(self) -> bool:
        """Layers are pairs of a spatial and a temporal one."""
        return self.variant == "stdit3"

    @property
    def geometry(self) -> LatentGeometry:
        """How latents lie over the video: frame by frame (1.1), or every 17 frames in 5 (1.2)."""
        if self.pairs:
            return LatentGeometry(self.in_channels, SPATIAL_RATIO, 17, 17, 5, 5)
        return LatentGeometry(self.in_channels, SPATIAL_RATIO, 1)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Tokens in height and width of a latent of that size."""
        return -(-height // self.patch_size), -(-width // self.patch_size)


_XL2 = STDiTConfig()
_XL3 = replace(_XL2, variant="stdit3", rotary_before_norm=False, text_length=300)
_TINY2 = replace(_XL2, num_layers=4, hidden_size=96, num_attention_heads=4, text_length=16, text_width=32)
_TINY3 = replace(_TINY2, variant="stdit3", rotary_before_norm=False, num_layers=2)

_IDDPM = {"schedule": "ddpm-linear", "parameterization": "epsilon", "predicted_variance": "learned"}
_FLOW = {
    "schedule": "flow",
    "parameterization": "flow-to-data",
    "predicted_variance": "ignored",
    "timestep_density": "logit-normal",
    "timestep_shift_by_size": True,
}
_LATENTS = {"scale_factor": 0.18215}
_XL_OPTIMIZER = {"lr": 2e-5, "weight_decay": 0.0, "clip_grad": 1.0}
_TINY_OPTIMIZER = {"lr": 2e-3, "lr_warmup_iters": 10, "lr_decay_style": "cosine", "clip_grad": 1.0}

PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            "stdit2-xl",
            _XL2,
            {
                "data": {"num_frames": 16, "height": 512, "width": 512, "frame_interval": 3, "fps": None},
                "encoders": _LATENTS,
                "objective": _IDDPM,
                "optimizer": _XL_OPTIMIZER,
            },
        ),
        Preset(
            "stdit3-xl",
            _XL3,
            {
                "data": {"num_frames": 51, "height": 720, "width": 1280, "fps": None},
                "objective": _FLOW,
                "optimizer": _XL_OPTIMIZER,
            },
        ),
        Preset(
            "stdit2-tiny",
            _TINY2,
            {
                "data": {"num_frames": 5, "height": 64, "width": 96, "fps": None},
                "objective": _IDDPM,
                "optimizer": _TINY_OPTIMIZER,
            },
        ),
        Preset(
            "stdit3-tiny",
            _TINY3,
            {
                "data": {"num_frames": 17, "height": 64, "width": 96, "fps": None},
                "objective": _FLOW,
                "optimizer": _TINY_OPTIMIZER,
            },
        ),
    )
}

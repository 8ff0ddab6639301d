"""Configuration and presets; light, for the command line reads them."""

from dataclasses import dataclass

from vidtron.config.geometry import LatentGeometry
from vidtron.config.text import TextSpec
from vidtron.models.preset import Preset

GEOMETRY = LatentGeometry(channels=20, spatial_ratio=24, frames_period=3, first_frames=2)
POOLED_WIDTH = 40


@dataclass
class ToyConfig:
    """Toy network"""

    num_layers: int = 4
    """Transformer layers."""
    hidden_size: int = 64
    """Width of the hidden states."""
    num_attention_heads: int = 4
    """Attention heads."""
    time_embed_dim: int = 32
    """Width of the time embedding."""

    @property
    def texts(self) -> tuple[TextSpec, ...]:
        """Two texts; the second one's encoder gives the pooled vector."""
        return TextSpec(6, 24, masked=True), TextSpec(4, POOLED_WIDTH, masked=True, pooled_width=POOLED_WIDTH)


PRESETS = {
    "toydit": Preset(
        "toydit",
        ToyConfig(),
        {
            "data": {"num_frames": 8, "height": 72, "width": 96, "fps": None},
            "objective": {
                "schedule": "ddpm-linear",
                "parameterization": "epsilon",
                "predicted_variance": "learned",
                "null_text": "zeros",
            },
            "optimizer": {"lr": 1e-2},
        },
    )
}

"""Clips, the frozen encoders, and how both become latents."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass
class DataConfig:
    """Data"""

    data_path: list[str] = field(default_factory=list)
    """Folders of shards written by tools/build_shards.py; several are used as one."""
    valid_data_path: list[str] = field(default_factory=list)
    """Folders of shards for evaluation."""
    num_frames: int = 49
    """Frames of a training clip; 4k+1 for the causal autoencoders."""
    height: int = 480
    """Pixels; clips are resized to cover and centre-cropped."""
    width: int = 720
    """Pixels."""
    fps: float | None = None
    """Frames a second taken from a clip, by its time stamps; unset: every frame."""
    short_clip: Literal["skip", "pad", "loop"] = "pad"
    """A clip with too few frames is left out, continued with its last frame, or repeated."""
    decoder: Literal["auto", "dali", "pyav"] = "auto"
    """auto: DALI for the codecs it reads on this device, PyAV for the rest."""
    num_workers: int = 1
    """Decoding threads per rank; 0: decode in the training thread."""
    prefetch_samples: int = 4
    """Decoded clips that wait in memory, per rank."""


@dataclass
class EncoderConfig:
    """Frozen encoders"""

    vae_path: Path | None = None
    """Local folder of a diffusers AutoencoderKLCogVideoX; unset: the built-in space-time transform."""
    text_encoder_path: Path | None = None
    """Local folder of a transformers T5 encoder and tokenizer; unset: the built-in hashed-token embedding."""
    scale_factor: float = 1.0
    """Latents are the autoencoder's output times this."""

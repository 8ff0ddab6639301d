"""Autoencoders as diffusers stores them in local folders; each of its classes has a file of its own.

Shapes: C channels, T frames, H height, W width.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from vidtron.config.data import EncoderConfig
from vidtron.config.geometry import LatentGeometry
from vidtron.encoders.base import Posterior
from vidtron.encoders.folders import read_config, weights_fingerprint
from vidtron.encoders.frozen import FrozenNetwork
from vidtron.encoders.normalisation import Normalisation

FLAG = "--vae-path"
LATENT_FRAMES_AT_ONCE = 2
"""Latent frames that diffusers decodes at a time, each slice with what its causal convolutions remember."""


class DiffusersAutoencoder(ABC):
    """An autoencoder from a local folder, frozen. Needs the diffusers package (ImportError without it)."""

    CLASS_NAME: ClassVar[str]
    """Of diffusers' class, the `_class_name` of its config.json."""

    def __init__(
        self,
        folder: Path,
        options: EncoderConfig,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        frames_at_once: int = LATENT_FRAMES_AT_ONCE,
    ) -> None:
        """Loads the weights.

        Args:
            folder: with config.json and weights of the class.
            options: tiles, slices, offloading, compilation, and whether latents are drawn or the posterior's mean.
            device: where it works.
            dtype: of the weights.
            frames_at_once: latent frames decoded at a time, where the class has a choice.

        Raises:
            ValueError: config.json tells no geometry or no normalisation.
        """
        self._folder = folder
        config = read_config(folder)
        self.geometry = self.geometry_of(config)
        self.normalisation = self.normalisation_of(config)
        self.has_variance = options.posterior == "sample"
        self.device = torch.device(device)
        self.dtype = dtype
        diffusers_class: Any = getattr(importlib.import_module("diffusers"), self.CLASS_NAME)
        model = diffusers_class.from_pretrained(folder, local_files_only=True, torch_dtype=dtype)
        if options.vae_tiling:
            model.enable_tiling()
        if options.vae_slicing:
            model.enable_slicing()
        self._tiling = options.vae_tiling
        self._frames_at_once = frames_at_once
        parts = (model.encoder, model.decoder) if options.compile_encoders else ()
        self._network = FrozenNetwork(model, self.device, offload=options.encoder_offload, compiled=parts)

    @classmethod
    @abstractmethod
    def geometry_of(cls, config: Mapping[str, Any]) -> LatentGeometry:
        """Geometry that a config.json tells; what it leaves out is diffusers' default."""

    @classmethod
    @abstractmethod
    def normalisation_of(cls, config: Mapping[str, Any]) -> Normalisation:
        """Normalisation that a config.json tells; what it leaves out is diffusers' default.

        Raises:
            ValueError: it does not tell what has no default.
        """

    @abstractmethod
    def _moments(self, model: Any, video_CTHW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance [C, T, H, W] of a clip that fits."""

    @abstractmethod
    def _video(self, model: Any, latents_CTHW: Tensor) -> Tensor:
        """Pixels [3, T, H, W] of latents of the autoencoder's own size."""

    @torch.no_grad()
    def encode(self, video_CTHW: Tensor) -> Posterior:
        """Mean and log variance (clamped by diffusers to [-30, 20]) of one clip [3, T, H, W] in [-1, 1], fp32."""
        self.geometry.latent_shape(*video_CTHW.shape[1:])
        with self._network.in_use() as model:
            mean_CTHW, logvar_CTHW = self._moments(model, video_CTHW.to(self.device, self.dtype))
        return Posterior(mean_CTHW.float(), logvar_CTHW.float() if self.has_variance else None)

    def held(self) -> AbstractContextManager[None]:
        """Keeps offloaded weights on the device while it is open: one copy for many clips."""
        return self._network.held()

    @torch.no_grad()
    def decode(self, latents_CTHW: Tensor) -> Tensor:
        """Video [3, T, H, W] of latents that are not normalised, fp32."""
        with self._network.in_use() as model:
            return self._video(model, latents_CTHW.to(self.device, self.dtype)).float()

    def fingerprint(self) -> str:
        return f"{self.CLASS_NAME}-{weights_fingerprint(self._folder)}" + ("-tiled" if self._tiling else "")

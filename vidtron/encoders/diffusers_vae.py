"""CogVideoX's autoencoder, as diffusers stores it in a local folder.

Shapes: C channels, T frames, H height, W width.
"""

from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor

from vidtron.encoders.base import Posterior, causal_latent_shape
from vidtron.encoders.folders import model_folder, read_config, weights_fingerprint
from vidtron.encoders.frozen import FrozenNetwork

FLAG = "--vae-path"
CLASS_NAME = "AutoencoderKLCogVideoX"
LATENT_FRAMES_AT_ONCE = 2
"""Latent frames that diffusers decodes at a time, each slice with what its causal convolutions remember."""


def vae_folder(path: Path) -> Path:
    """The folder of the autoencoder: `path` or `path`/vae; ValueError, starting with the flag, for anything else."""
    folder = model_folder(path, "vae", FLAG)
    try:
        found = read_config(folder).get("_class_name")
    except ValueError as error:
        raise ValueError(f"{FLAG} {path}: {error}") from error
    if found != CLASS_NAME:
        raise ValueError(f"{FLAG} {path}: holds a {found or 'model without _class_name'}; accepted: {CLASS_NAME}")
    return folder


class DiffusersVideoAutoencoder:
    """AutoencoderKLCogVideoX from a local folder, frozen. Needs the diffusers package (ImportError without it)."""

    has_variance = True
    """Whether posteriors are more than points."""

    def __init__(
        self,
        path: Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        tiling: bool = False,
        slicing: bool = False,
        offload: bool = False,
        compiled: bool = False,
        frames_at_once: int = LATENT_FRAMES_AT_ONCE,
    ) -> None:
        """Loads the weights.

        Args:
            path: see `vae_folder`.
            device: where it works.
            dtype: of the weights.
            tiling: work on overlapping tiles: less memory, a slightly different result.
            slicing: decode one video of a batch at a time.
            offload: keep the weights in the CPU's memory while they are not used.
            compiled: compile encoder and decoder when they are first used.
            frames_at_once: latent frames decoded at a time, an even number: group norms see them together, so more
                are faster, take more memory and give a slightly different result.
        """
        from diffusers import AutoencoderKLCogVideoX

        self._folder = vae_folder(path)
        self.device = torch.device(device)
        self.dtype = dtype
        model = AutoencoderKLCogVideoX.from_pretrained(self._folder, local_files_only=True, torch_dtype=dtype)
        if tiling:
            model.enable_tiling()
        if slicing:
            model.enable_slicing()
        self._tiling = tiling
        model.num_latent_frames_batch_size = frames_at_once
        parts = (model.encoder, model.decoder) if compiled else ()
        self._network = FrozenNetwork(model, self.device, offload=offload, compiled=parts)
        config = model.config
        self.latent_channels = int(config.latent_channels)
        self.temporal_ratio = int(config.temporal_compression_ratio)
        self.spatial_ratio = 2 ** (len(config.block_out_channels) - 1)

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(C, T, H, W) of the latents; ValueError for a clip that does not fit."""
        return causal_latent_shape(
            self.latent_channels, self.temporal_ratio, self.spatial_ratio, frames, height, width
        )

    @torch.no_grad()
    def encode(self, video_CTHW: Tensor) -> Posterior:
        """Mean and log variance (clamped by diffusers to [-30, 20]) of one clip [3, T, H, W] in [-1, 1], fp32."""
        self.latent_shape(*video_CTHW.shape[1:])
        with self._network.in_use() as model:
            moments = model.encode(video_CTHW[None].to(self.device, self.dtype)).latent_dist
        return Posterior(moments.mean[0].float(), moments.logvar[0].float())

    def held(self) -> AbstractContextManager[None]:
        """Keeps offloaded weights on the device while it is open: one copy for many clips."""
        return self._network.held()

    @torch.no_grad()
    def decode(self, latents_CTHW: Tensor) -> Tensor:
        """Video [3, ratio * (T-1) + 1, H, W] of unscaled latents, fp32.

        diffusers gives an even number of latent frames `ratio` pixel frames each, the first as well. The last
        latent frame is therefore doubled in that case and its frames are cut off: the network is causal in time, up
        to its group norms.
        """
        frames = latents_CTHW.shape[1]
        if frames % 2 == 0:
            latents_CTHW = torch.cat([latents_CTHW, latents_CTHW[:, -1:]], dim=1)
        with self._network.in_use() as model:
            video_CTHW = model.decode(latents_CTHW[None].to(self.device, self.dtype)).sample[0]
        return video_CTHW[:, : self.temporal_ratio * (frames - 1) + 1].float()

    def fingerprint(self) -> str:
        return f"{CLASS_NAME}-{weights_fingerprint(self._folder)}" + ("-tiled" if self._tiling else "")

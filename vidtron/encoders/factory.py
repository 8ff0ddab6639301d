"""From the configuration to the encoders of a run, and what is wrong with a configuration."""

import os
import shutil
from collections.abc import Iterator

import torch

from vidtron.config.data import EncoderConfig
from vidtron.config.run import RunConfig
from vidtron.config.world import World
from vidtron.encoders import diffusers_vae, t5
from vidtron.encoders.base import TextEncoder, VideoAutoencoder
from vidtron.encoders.builtin import HashedTokens, SpaceTimeTransform
from vidtron.encoders.folders import read_config
from vidtron.encoders.frozen import COMPILE_FLAG


def encoder_dtype(config: RunConfig, device: torch.device) -> torch.dtype:
    """What the encoders of a run compute in."""
    return torch.bfloat16 if device.type == "cuda" and config.precision.bf16 else torch.float32


def video_autoencoder(
    config: EncoderConfig,
    device: torch.device | str,
    dtype: torch.dtype,
    *,
    frames_at_once: int = diffusers_vae.LATENT_FRAMES_AT_ONCE,
) -> VideoAutoencoder:
    """The autoencoder of `--vae-path` with the configured options, or the built-in space-time transform, which is
    always fp32 and has none."""
    if config.vae_path is None:
        return SpaceTimeTransform(device)
    return diffusers_vae.DiffusersVideoAutoencoder(
        config.vae_path,
        device,
        dtype,
        tiling=config.vae_tiling,
        slicing=config.vae_slicing,
        offload=config.encoder_offload,
        compiled=config.compile_encoders,
        frames_at_once=frames_at_once,
    )


def text_encoder(
    config: EncoderConfig, length: int, width: int, device: torch.device | str, dtype: torch.dtype
) -> TextEncoder:
    """The encoder of `--text-encoder-path`, or the built-in hashed tokens, for `length` tokens of `width` numbers.

    Raises ValueError where the encoder's width is not the one the model takes.
    """
    if config.text_encoder_path is None:
        return HashedTokens(width, length, device)
    found = t5.t5_width(config.text_encoder_path)
    if found != width:
        raise ValueError(_width_error(config, found, width))
    return t5.T5TextEncoder(
        config.text_encoder_path,
        length,
        device,
        dtype,
        offload=config.encoder_offload,
        compiled=config.compile_encoders,
    )


def encoded_terms(
    config: EncoderConfig, dtype: torch.dtype, autoencoder: VideoAutoencoder, text_encoder: TextEncoder
) -> dict[str, str]:
    """What decides the numbers that two opened encoders give, by the flag that sets it.

    Compilation, offloading and the device are not among them: they change results by rounding or not at all.
    """
    built_in = config.vae_path is None and config.text_encoder_path is None
    return {
        "--vae-path (and --vae-tiling)": autoencoder.fingerprint(),
        "--text-encoder-path": text_encoder.fingerprint(),
        "--bf16 (dtype of the encoders)": str(torch.float32 if built_in else dtype).removeprefix("torch."),
        "--scale-factor": repr(config.scale_factor),
    }


def check(
    config: RunConfig, world: World, text_width: int | None = None, latent_channels: int | None = None
) -> list[str]:
    """What is wrong with the encoders and with clips that do not fit them; one message each.

    `text_width` and `latent_channels` are the model's, where they are to be compared with those of the folders.
    """
    return [
        *_check_options(config.encoders, world),
        *_check_autoencoder(config, world, latent_channels),
        *_check_text(config, world, text_width),
    ]


def _check_options(config: EncoderConfig, world: World) -> Iterator[str]:
    cache = config.latent_cache
    if cache is not None and cache.exists() and not cache.is_dir():
        yield f"--latent-cache {cache}: is a file; accepted: a folder, new or of an earlier run"
    pretrained = config.vae_path is not None or config.text_encoder_path is not None
    if config.compile_encoders and pretrained and not world.has_cuda and not _cpp_compiler():
        yield (
            f"{COMPILE_FLAG}: torch.compile needs a C++ compiler on a CPU, and neither $CXX nor g++ nor clang++ is "
            f"there; accepted: without {COMPILE_FLAG}"
        )


def _cpp_compiler() -> str | None:
    """The compiler that torch.compile would call."""
    candidates = (os.environ.get("CXX"), "g++", "clang++")
    return next((found for name in candidates if name and (found := shutil.which(name))), None)


def _check_autoencoder(config: RunConfig, world: World, latent_channels: int | None) -> list[str]:
    path = config.encoders.vae_path
    errors = []
    channels, temporal, spatial = (
        SpaceTimeTransform.latent_channels,
        SpaceTimeTransform.temporal_ratio,
        SpaceTimeTransform.spatial_ratio,
    )
    if path is not None:
        if "diffusers" not in world.packages:
            errors.append(f"{diffusers_vae.FLAG}: needs the diffusers package, which is not installed")
        try:
            stored = read_config(diffusers_vae.vae_folder(path))
        except ValueError as error:
            return [*errors, str(error)]
        channels = int(stored.get("latent_channels", channels))
        temporal = int(stored.get("temporal_compression_ratio", temporal))
        spatial = 2 ** (len(stored.get("block_out_channels", (1, 1, 1, 1))) - 1)
    if latent_channels is not None and channels != latent_channels:
        name = f"{diffusers_vae.FLAG} {path}" if path is not None else "the built-in autoencoder"
        errors.append(f"{name}: has {channels} latent channels, the model takes {latent_channels}")
    if (temporal, spatial) != (SpaceTimeTransform.temporal_ratio, SpaceTimeTransform.spatial_ratio):
        errors.append(
            f"{diffusers_vae.FLAG} {path}: one latent is {temporal} frames of {spatial} x {spatial} pixels; accepted: "
            f"{SpaceTimeTransform.temporal_ratio} frames of {SpaceTimeTransform.spatial_ratio} x "
            f"{SpaceTimeTransform.spatial_ratio}"
        )
    frames = config.data.num_frames
    if frames < 1 or frames % temporal != 1 % temporal:
        below = max(frames - 1, 0) // temporal * temporal + 1
        errors.append(
            f"--num-frames {frames}: does not fit the autoencoder; accepted: {temporal}k+1, the nearest {below} and "
            f"{below + temporal}"
        )
    return errors


def _check_text(config: RunConfig, world: World, text_width: int | None) -> list[str]:
    path = config.encoders.text_encoder_path
    if path is None:
        return []
    errors = []
    if "transformers" not in world.packages:
        errors.append(f"{t5.FLAG}: needs the transformers package, which is not installed")
    try:
        width = t5.t5_width(path)
        t5.tokenizer_folder(path)
    except ValueError as error:
        return [*errors, str(error)]
    if text_width is not None and width != text_width:
        errors.append(_width_error(config.encoders, width, text_width))
    return errors


def _width_error(config: EncoderConfig, found: int, wanted: int) -> str:
    return f"{t5.FLAG} {config.text_encoder_path}: gives embeddings of width {found}, the model takes {wanted}"

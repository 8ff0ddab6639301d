"""From the configuration to the encoders of a run, and what is wrong with a configuration."""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from vidtron.config.data import EncoderConfig
from vidtron.config.geometry import LatentGeometry
from vidtron.config.run import RunConfig
from vidtron.config.text import TextSpec
from vidtron.config.world import World
from vidtron.encoders import diffusers_vae
from vidtron.encoders.base import TextEncoder, VideoAutoencoder
from vidtron.encoders.frozen import COMPILE_FLAG
from vidtron.encoders.hashed_tokens import HashedTokens
from vidtron.encoders.normalisation import Normalisation, chosen, normalisation_of
from vidtron.encoders.pretrained import TEXT_FLAGS, find_autoencoder, find_text_encoder, text_paths
from vidtron.encoders.space_time import SpaceTimeTransform


def encoder_dtype(config: RunConfig, device: torch.device) -> torch.dtype:
    """The dtype in which a run's encoders compute."""
    return torch.bfloat16 if device.type == "cuda" and config.precision.bf16 else torch.float32


def video_autoencoder(
    config: EncoderConfig,
    geometry: LatentGeometry,
    device: torch.device | str,
    dtype: torch.dtype,
    *,
    frames_at_once: int = diffusers_vae.LATENT_FRAMES_AT_ONCE,
) -> VideoAutoencoder:
    """The autoencoder of `--vae-path` with the configured options, or the built-in space-time transform of the
    model's geometry, which is always fp32 and has no options."""
    if config.vae_path is None:
        return SpaceTimeTransform(device, geometry)
    found = find_autoencoder(config.vae_path)
    return found.kind(found.folder, config, device, dtype, frames_at_once)


def text_encoders(
    config: EncoderConfig, texts: Sequence[TextSpec], device: torch.device | str, dtype: torch.dtype
) -> tuple[TextEncoder, ...]:
    """The encoders of a model's texts, in its order.

    Args:
        config: the flags.
        texts: what the model takes.
        device: where they work.
        dtype: of the weights.
    """
    return tuple(text_encoder(config, text, device, dtype, number) for number, text in enumerate(texts))


def text_encoder(
    config: EncoderConfig, text: TextSpec, device: torch.device | str, dtype: torch.dtype, number: int = 0
) -> TextEncoder:
    """The encoder of `--text-encoder-path` (`number` 0) or `--text-encoder-2-path` (1), or the built-in hashed tokens,
    for what the model takes.

    Raises ValueError where the encoder does not give that.
    """
    path = text_paths(config)[number]
    if path is None:
        return HashedTokens(text.width, text.length, device, text.pooled_width)
    found = find_text_encoder(path, number)
    error = found.error(text)
    if error is not None:
        raise ValueError(error)
    return found.kind(found.folders, text, config, device, dtype)


def encoded_terms(
    config: EncoderConfig, dtype: torch.dtype, autoencoder: VideoAutoencoder, text_encoders: Sequence[TextEncoder]
) -> dict[str, str]:
    """Everything that determines the numbers that opened encoders give, by the flag that sets it.

    Compilation, offloading and the device are not among them: they change results by rounding or not at all.
    """
    built_in = config.vae_path is None and not any(text_paths(config))
    return {
        "--vae-path (and --vae-tiling)": autoencoder.fingerprint(),
        "--posterior": "sample" if config.vae_path is None else config.posterior,
        **text_fingerprints(text_encoders),
        "--bf16 (dtype of the encoders)": str(torch.float32 if built_in else dtype).removeprefix("torch."),
        "--scale-factor": str(normalisation_of(config, autoencoder)),
    }


def text_fingerprints(encoders: Sequence[TextEncoder]) -> dict[str, str]:
    """Fingerprints of the functions that text encoders compute, by their flags."""
    return {flag: encoder.fingerprint() for flag, encoder in zip(TEXT_FLAGS, encoders, strict=False)}


def check(config: RunConfig, world: World, geometry: LatentGeometry, texts: Sequence[TextSpec]) -> list[str]:
    """Errors in the choice of encoders, and of clips that do not fit them; one message each.

    Args:
        config: the run.
        world: the machine.
        geometry: of the latents that the model takes.
        texts: that the model takes.
    """
    return [
        *_check_options(config.encoders, world),
        *_check_autoencoder(config, world, geometry),
        *_check_texts(config, world, texts),
    ]


def _check_options(config: EncoderConfig, world: World) -> Iterator[str]:
    cache = config.latent_cache
    if cache is not None and cache.exists() and not cache.is_dir():
        yield f"--latent-cache {cache}: is a file; accepted: a folder, new or of an earlier run"
    pretrained = config.vae_path is not None or any(text_paths(config))
    if config.compile_encoders and pretrained and not world.has_cuda and not _cpp_compiler():
        yield (
            f"{COMPILE_FLAG}: torch.compile needs a C++ compiler on a CPU, and neither $CXX nor g++ nor clang++ is "
            f"there; accepted: without {COMPILE_FLAG}"
        )


def _cpp_compiler() -> str | None:
    """The compiler that torch.compile would call."""
    candidates = (os.environ.get("CXX"), "g++", "clang++")
    return next((found for name in candidates if name and (found := shutil.which(name))), None)


def _check_autoencoder(config: RunConfig, world: World, geometry: LatentGeometry) -> list[str]:
    path = config.encoders.vae_path
    errors = []
    if path is None:
        try:
            SpaceTimeTransform(geometry=geometry)
        except ValueError as error:
            errors.append(f"{error}; accepted: {diffusers_vae.FLAG}")
    else:
        if "diffusers" not in world.packages:
            errors.append(f"{diffusers_vae.FLAG}: needs the diffusers package, which is not installed")
        try:
            found = find_autoencoder(path)
        except ValueError as error:
            return [*errors, str(error)]
        if found.geometry.channels != geometry.channels:
            errors.append(
                f"{diffusers_vae.FLAG} {path}: has {found.geometry.channels} latent channels, the model takes "
                f"{geometry.channels}"
            )
        elif found.geometry != geometry:
            errors.append(f"{diffusers_vae.FLAG} {path}: latents of {found.geometry}; the model takes {geometry}")
        errors += _check_normalisation(config, found.normalisation)
    frames = config.data.num_frames
    if not geometry.takes(frames):
        nearest = " and ".join(map(str, geometry.nearest_frames(frames)))
        errors.append(
            f"--num-frames {frames}: does not fit the autoencoder; accepted: {geometry.accepted_frames}, the nearest "
            f"{nearest}"
        )
    return errors


def _check_normalisation(config: RunConfig, own: Normalisation) -> Iterator[str]:
    """What of the flags does not go with how an autoencoder is normalised."""
    try:
        chosen(config.encoders, own)
    except ValueError as error:
        yield str(error)
    if config.objective.image_latent_scale == "inverted":
        try:
            own.inverted()
        except ValueError as error:
            yield str(error)


def _check_texts(config: RunConfig, world: World, texts: Sequence[TextSpec]) -> list[str]:
    errors = []
    for number, path in enumerate(text_paths(config.encoders)):
        if path is not None and number >= len(texts):
            errors.append(f"{TEXT_FLAGS[number]} {path}: the model takes {len(texts)} texts; accepted: without it")
        elif path is not None:
            errors += _check_text(number, path, world, texts[number])
    return errors


def _check_text(number: int, path: Path, world: World, wanted: TextSpec) -> list[str]:
    try:
        found = find_text_encoder(path, number)
    except ValueError as error:
        return [*_missing_packages(number, ("transformers",), world), str(error)]
    errors = _missing_packages(number, ("transformers", *found.kind.PACKAGES), world)
    misfit = found.error(wanted)
    return errors if misfit is None else [*errors, misfit]


def _missing_packages(number: int, packages: Sequence[str], world: World) -> list[str]:
    return [
        f"{TEXT_FLAGS[number]}: needs the {package} package, which is not installed"
        for package in packages
        if package not in world.packages
    ]

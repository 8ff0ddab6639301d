"""Between an autoencoder's own latents and those of about unit size that a model is trained on.

Shapes: T frames, C channels, H height, W width.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from vidtron.config.data import EncoderConfig

if TYPE_CHECKING:
    from vidtron.encoders.base import VideoAutoencoder

FLAG = "--scale-factor"


class Normalisation(Protocol):
    """One way of normalising latents. `str` names it: latents of equal names are normalised alike."""

    def apply(self, latents_TCHW: Tensor) -> Tensor:
        """Normalised latents of an autoencoder's own."""
        ...

    def undo(self, latents_TCHW: Tensor) -> Tensor:
        """An autoencoder's own latents of normalised ones."""
        ...

    def with_factor(self, factor: float) -> "Normalisation":
        """The same normalisation with `--scale-factor` as its factor. Raises ValueError where it has none."""
        ...

    def inverted(self) -> "Normalisation":
        """Normalisation by 1 / factor (diffusers' invert_scale_latents). Raises ValueError where it has none."""
        ...


@dataclass(frozen=True)
class ByFactor:
    """(latents - shift) x factor, all channels alike."""

    factor: float = 1.0
    shift: float = 0.0

    def apply(self, latents_TCHW: Tensor) -> Tensor:
        """Normalised latents of an autoencoder's own."""
        return (latents_TCHW - self.shift if self.shift else latents_TCHW) * self.factor

    def undo(self, latents_TCHW: Tensor) -> Tensor:
        """An autoencoder's own latents of normalised ones."""
        unscaled_TCHW = latents_TCHW / self.factor
        return unscaled_TCHW + self.shift if self.shift else unscaled_TCHW

    def with_factor(self, factor: float) -> "ByFactor":
        """The factor in the place of the autoencoder's; the shift stays."""
        return ByFactor(factor, self.shift)

    def inverted(self) -> "ByFactor":
        """Normalisation by one over the factor."""
        return ByFactor(1 / self.factor, self.shift)

    def __str__(self) -> str:
        return f"{self.factor!r}, after a shift by {-self.shift!r}" if self.shift else repr(self.factor)


@dataclass(frozen=True)
class ByChannel:
    """(latents - mean) / deviation, each channel by its own."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def apply(self, latents_TCHW: Tensor) -> Tensor:
        """Normalised latents of an autoencoder's own."""
        return (latents_TCHW - _of_channels(self.mean, latents_TCHW)) / _of_channels(self.deviation, latents_TCHW)

    def undo(self, latents_TCHW: Tensor) -> Tensor:
        """An autoencoder's own latents of normalised ones."""
        return latents_TCHW * _of_channels(self.deviation, latents_TCHW) + _of_channels(self.mean, latents_TCHW)

    def with_factor(self, factor: float) -> "ByChannel":
        """Raise ValueError: statistics of channels have no factor to replace."""
        raise ValueError(
            f"{FLAG} {factor:g}: the autoencoder brings a mean and a deviation for each channel, which leave nothing "
            "to be scaled; accepted: none"
        )

    def inverted(self) -> "ByChannel":
        """Raise ValueError: statistics of channels have no factor to invert."""
        raise ValueError(
            "--image-latent-scale inverted: the autoencoder is normalised by channels, not by a factor that could be "
            "inverted; accepted: scaled, unscaled"
        )

    def __str__(self) -> str:
        values = (f"{mean!r} {deviation!r}" for mean, deviation in zip(self.mean, self.deviation, strict=True))
        return f"mean and deviation of each channel: {', '.join(values)}"


def normalisation_of(config: EncoderConfig, autoencoder: "VideoAutoencoder") -> Normalisation:
    """Normalisation of an autoencoder's latents in a run: its own, with `--scale-factor` as the factor if that is set.

    Raises:
        ValueError: there is no factor that the flag could replace.
    """
    return chosen(config, autoencoder.normalisation)


def chosen(config: EncoderConfig, own: Normalisation) -> Normalisation:
    """Normalisation of a run, given the autoencoder's own. Raises ValueError as `normalisation_of`."""
    return own if config.scale_factor is None else own.with_factor(config.scale_factor)


def channel_statistics(config: Mapping[str, Any], channels: int, factor: float = 1.0) -> ByChannel:
    """Normalisation by `latents_mean` and `latents_std` of a diffusers config.json.

    Args:
        config: its content.
        channels: of the latents.
        factor: that normalised latents are multiplied by besides.

    Raises:
        ValueError: they are not there, or are not one number for each channel, the deviations above 0.
    """
    mean, deviation = (_numbers(config, name, channels) for name in ("latents_mean", "latents_std"))
    if min(deviation) <= 0:
        raise ValueError(f"latents_std holds {min(deviation):g}; accepted: numbers above 0")
    return ByChannel(mean, tuple(one / factor for one in deviation))


def _numbers(config: Mapping[str, Any], name: str, count: int) -> tuple[float, ...]:
    values = config.get(name)
    numbers = [
        float(one)
        for one in (values if isinstance(values, Sequence) and not isinstance(values, str) else ())
        if isinstance(one, int | float) and math.isfinite(one)
    ]
    if len(numbers) != count:
        raise ValueError(f"{name} does not hold one number for each of {count} channels")
    return tuple(numbers)


def _of_channels(values: Sequence[float], latents_TCHW: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=latents_TCHW.device).view(-1, 1, 1)

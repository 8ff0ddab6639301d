"""Encoders that need no download: stand-ins for a trained autoencoder and a trained text encoder.

They exist so that the whole path of a clip - encode, train, sample, decode - runs and can be checked on any
machine. Neither has learned anything: the transform keeps far less of a video than a trained autoencoder does, and
the text embedding knows that two words differ, not what they mean. Train for results with `--vae-path` and
`--text-encoder-path`.

Shapes: B batch, C channels, T frames, H height, W width, L text tokens, E text width.
"""

import hashlib
import math
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from vidtron.encoders.base import Posterior, causal_latent_shape

# One latent channel is one coefficient of a four-dimensional orthonormal cosine transform of a block of 4 frames x
# 8 x 8 pixels x 3 colours: (colour, time, vertical, horizontal) frequency. Colour 0 is the sum of R, G and B, 1 is
# R - B, 2 is R - 2G + B. The coefficients are those with the most energy on natural video, with three of motion in
# place of the finest still detail, so that movement does not turn into steps of four frames, and the second colour.
_BLOCK_COEFFICIENTS: tuple[tuple[int, int, int, int], ...] = (
    (0, 0, 0, 0),
    (0, 0, 0, 1),
    (0, 0, 1, 0),
    (0, 0, 0, 2),
    (0, 0, 2, 0),
    (0, 0, 1, 1),
    (0, 0, 0, 3),
    (0, 0, 3, 0),
    (0, 0, 1, 2),
    (0, 0, 2, 1),
    (1, 0, 0, 0),
    (2, 0, 0, 0),
    (0, 1, 0, 0),
    (0, 1, 0, 1),
    (0, 1, 1, 0),
    (0, 2, 0, 0),
)
# The lone first frame has no motion: those channels carry finer still detail instead.
_FIRST_FRAME_INSTEAD: dict[int, tuple[int, int, int, int]] = {
    12: (0, 0, 2, 2),
    13: (0, 0, 0, 4),
    14: (0, 0, 4, 0),
    15: (0, 0, 3, 1),
}
# Root mean squares (RMS) of the coefficients of a block, on the clips of examples/quickstart/fetch_clips.py, and of
# those that the first frame has instead, four times repeated. A channel is divided by sqrt(its RMS * their mean): the
# latents as a whole have unit variance, and of all such scales these let noise that a model leaves in the latents,
# equally strong in all channels, hurt the picture least. With one scale for all, what fine detail there is drowns in
# that noise; with unit variance in each channel the noise of the first, which is most of the picture, is what is seen.
# `python tools/measure_latents.py --data-path SHARDS --num-frames 17 --height 64 --width 96` prints the RMS of the
# latents, 1.0 when the table fits.
_BLOCK_RMS = (11.6, 3.1, 2.9, 1.6, 1.7, 1.4, 1.0, 1.1, 0.93, 0.98, 1.5, 0.44, 1.4, 0.65, 0.60, 0.73)
_FIRST_FRAME_RMS = {12: 0.80, 13: 0.77, 14: 0.79, 15: 0.69}
_FRAMES, _PIXELS = 4, 8


def _cosines(size: int) -> Tensor:
    """Orthonormal DCT-II matrix [frequency, position]."""
    frequency = torch.arange(size, dtype=torch.float64)[:, None]
    position = torch.arange(size, dtype=torch.float64)[None, :]
    matrix = torch.cos(math.pi * (position + 0.5) * frequency / size) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix


def _basis(coefficients: list[tuple[int, int, int, int]], frames: int) -> Tensor:
    """Orthonormal rows [C, 3 * frames * 8 * 8] in the order (colour, time, y, x)."""
    colour, time, pixel = _cosines(3), _cosines(frames), _cosines(_PIXELS)
    rows = [
        torch.einsum("c,t,y,x->ctyx", colour[c], time[t], pixel[v], pixel[h]).flatten() for c, t, v, h in coefficients
    ]
    return torch.stack(rows)


def _scales(rms_C: Sequence[float]) -> Tensor:
    """What each channel is divided by, [C, 1]."""
    mean = sum(_BLOCK_RMS) / len(_BLOCK_RMS)
    return torch.tensor([math.sqrt(rms * mean) for rms in rms_C], dtype=torch.float64)[:, None]


class SpaceTimeTransform:
    """A fixed transform with the geometry of CogVideoX's autoencoder: 4 frames (the first alone) x 8 x 8 pixels to
    16 channels.

    A space-time-colour cosine transform of which the 16 strongest low frequencies are kept, scaled so that the latents
    of natural video have unit variance as a whole. Decoding is the transpose: the least-squares reconstruction.
    Encoding is deterministic; `logvar` is None.
    """

    latent_channels = 16
    temporal_ratio = _FRAMES
    spatial_ratio = _PIXELS
    has_variance = False
    """Whether posteriors are more than points."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        block = _basis(list(_BLOCK_COEFFICIENTS), _FRAMES)
        first = _basis([_FIRST_FRAME_INSTEAD.get(i, row) for i, row in enumerate(_BLOCK_COEFFICIENTS)], 1)
        block_scales = _scales(_BLOCK_RMS)
        # A block of equal frames has sqrt(4) times the coefficients of one of them: so scaled, a still video has equal
        # latents in all frames.
        first_rms = [_FIRST_FRAME_RMS.get(i, rms) for i, rms in enumerate(_BLOCK_RMS)]
        first_scales = _scales(first_rms) / math.sqrt(_FRAMES)
        self._analysis = [self._on_device(first / first_scales), self._on_device(block / block_scales)]
        self._synthesis = [self._on_device(first * first_scales), self._on_device(block * block_scales)]

    def _on_device(self, matrix: Tensor) -> Tensor:
        return matrix.to(self.device, torch.float32)

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(16, T, H, W) of the latents; ValueError unless frames = 4k+1 and the sides are multiples of 8."""
        return causal_latent_shape(self.latent_channels, _FRAMES, _PIXELS, frames, height, width)

    @torch.no_grad()
    def encode(self, video_CTHW: Tensor) -> Posterior:
        """Latents [16, (T-1)/4+1, H/8, W/8] of a clip [3, T, H, W] in [-1, 1], as a point."""
        colours, frames, height, width = video_CTHW.shape
        self.latent_shape(frames, height, width)
        if colours != 3:
            raise ValueError(f"a video has 3 colours, not {colours}")
        video_CTHW = video_CTHW.to(self.device, torch.float32)
        parts = [self._analyse(video_CTHW[:, :1], 1, self._analysis[0])]
        if frames > 1:
            parts.append(self._analyse(video_CTHW[:, 1:], _FRAMES, self._analysis[1]))
        return Posterior(torch.cat(parts, dim=1))

    def held(self) -> AbstractContextManager[None]:
        """Nothing to do: the matrices are small and stay on the device."""
        return nullcontext()

    @torch.no_grad()
    def decode(self, latents_CTHW: Tensor) -> Tensor:
        """Video [3, 4(T-1)+1, 8H, 8W] of latents [16, T, H, W]; about [-1, 1], not clamped."""
        if latents_CTHW.shape[0] != self.latent_channels:
            raise ValueError(
                f"the built-in autoencoder has {self.latent_channels} channels, not {latents_CTHW.shape[0]}"
            )
        latents_CTHW = latents_CTHW.to(self.device, torch.float32)
        parts = [self._synthesise(latents_CTHW[:, :1], 1, self._synthesis[0])]
        if latents_CTHW.shape[1] > 1:
            parts.append(self._synthesise(latents_CTHW[:, 1:], _FRAMES, self._synthesis[1]))
        return torch.cat(parts, dim=1)

    def fingerprint(self) -> str:
        digest = hashlib.blake2b(
            repr(
                (
                    _BLOCK_COEFFICIENTS,
                    sorted(_FIRST_FRAME_INSTEAD.items()),
                    _BLOCK_RMS,
                    sorted(_FIRST_FRAME_RMS.items()),
                )
            ).encode(),
            digest_size=8,
        )
        return f"space-time-transform-{digest.hexdigest()}"

    @staticmethod
    def _analyse(video_CTHW: Tensor, frames: int, matrix: Tensor) -> Tensor:
        _, time, height, width = video_CTHW.shape
        t, h, w = time // frames, height // _PIXELS, width // _PIXELS
        blocks = video_CTHW.reshape(3, t, frames, h, _PIXELS, w, _PIXELS).permute(1, 3, 5, 0, 2, 4, 6)
        return (blocks.reshape(t, h, w, -1) @ matrix.T).permute(3, 0, 1, 2).contiguous()

    @staticmethod
    def _synthesise(latents_CTHW: Tensor, frames: int, matrix: Tensor) -> Tensor:
        _, t, h, w = latents_CTHW.shape
        blocks = (latents_CTHW.permute(1, 2, 3, 0) @ matrix).reshape(t, h, w, 3, frames, _PIXELS, _PIXELS)
        return blocks.permute(3, 0, 4, 1, 5, 2, 6).reshape(3, t * frames, h * _PIXELS, w * _PIXELS)


class HashedTokens:
    """A fixed text embedding: each word is a Gaussian vector drawn from a hash of the word, with a smaller one for
    its place.

    Words are runs of letters and digits in lower case; words beyond `length` are cut off, places after the last
    word hold one padding vector. The entries have about unit variance. The same caption has the same embedding on
    every machine.
    """

    _PLACE_WEIGHT = 0.5

    def __init__(self, width: int, length: int, device: torch.device | str = "cpu") -> None:
        self.width = width
        self.length = length
        self.device = torch.device(device)
        self._vectors: dict[str, Tensor] = {}
        self._places_LE = torch.stack([self._draw(f"place {i}") for i in range(length)])

    @torch.no_grad()
    def encode(self, captions: list[str]) -> Tensor:
        """Embeddings [B, length, width], fp32."""
        rows = [torch.stack([self._vector(word) for word in self._words(caption)]) for caption in captions]
        tokens_BLE = torch.stack(rows) if rows else torch.empty(0, self.length, self.width)
        mixed_BLE = (tokens_BLE + self._PLACE_WEIGHT * self._places_LE) / math.sqrt(1 + self._PLACE_WEIGHT**2)
        return mixed_BLE.to(self.device)

    def held(self) -> AbstractContextManager[None]:
        """Nothing to do: there are no weights."""
        return nullcontext()

    def fingerprint(self) -> str:
        return f"hashed-tokens-{self.width}x{self.length}-v1"

    def _words(self, caption: str) -> list[str | None]:
        words: list[str | None] = list(re.findall(r"\w+", caption.lower()))[: self.length]
        return words + [None] * (self.length - len(words))

    def _vector(self, word: str | None) -> Tensor:
        name = "padding" if word is None else f"word {word}"
        if name not in self._vectors:
            self._vectors[name] = self._draw(name)
        return self._vectors[name]

    def _draw(self, name: str) -> Tensor:
        seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") >> 1
        return torch.randn(self.width, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)

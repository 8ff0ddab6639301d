"""A stand-in for a trained autoencoder that needs no download.

It exists so that the whole path of a clip - encode, train, sample, decode - runs and can be checked on any machine. It
has learned nothing and keeps far less of a video than a trained autoencoder does. Train for results with `--vae-path`.

Shapes: C channels, T frames, H height, W width.
"""

import hashlib
import itertools
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from vidtron.config.geometry import LatentGeometry, causal_geometry
from vidtron.encoders.base import Posterior
from vidtron.encoders.normalisation import ByFactor, Normalisation

Coefficient = tuple[int, int, int, int]
"""(colour, time, vertical, horizontal) frequency."""

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
CAUSAL = causal_geometry(16, 4, 8)
"""The geometry that the tables above are measured for."""


def _cosines(size: int) -> Tensor:
    """Orthonormal DCT-II matrix [frequency, position]."""
    frequency = torch.arange(size, dtype=torch.float64)[:, None]
    position = torch.arange(size, dtype=torch.float64)[None, :]
    matrix = torch.cos(math.pi * (position + 0.5) * frequency / size) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix


def _basis(coefficients: Sequence[Coefficient], frames: int, pixels: int) -> Tensor:
    """Orthonormal rows [coefficients, 3 * frames * pixels * pixels] in the order (colour, time, y, x)."""
    colour, time, pixel = _cosines(3), _cosines(frames), _cosines(pixels)
    rows = [
        torch.einsum("c,t,y,x->ctyx", colour[c], time[t], pixel[v], pixel[h]).flatten() for c, t, v, h in coefficients
    ]
    return torch.stack(rows)


def _scales(rms: Sequence[float], mean: float) -> Tensor:
    """What each coefficient is divided by, [coefficients, 1]."""
    return torch.tensor([math.sqrt(one * mean) for one in rms], dtype=torch.float64)[:, None]


@dataclass(frozen=True)
class _Block:
    """The transform of frames that are encoded together."""

    frames: int
    latents: int
    analysis: Tensor
    """[latents * channels, 3 * frames * pixels * pixels]."""
    synthesis: Tensor

    @classmethod
    def make(
        cls, coefficients: Sequence[Coefficient], scales: Tensor, *, frames: int, latents: int, pixels: int
    ) -> "_Block":
        """Build the transform from coefficients in the order (latent frame, channel), and their divisors."""
        basis = _basis(coefficients, frames, pixels)
        return cls(frames, latents, basis / scales, basis * scales)

    def on(self, device: torch.device) -> "_Block":
        """The transform on a device, in fp32."""
        matrices = (matrix.to(device, torch.float32) for matrix in (self.analysis, self.synthesis))
        return _Block(self.frames, self.latents, *matrices)


def _measured_blocks() -> tuple[_Block, _Block]:
    """Transforms by the tables above: of the lone first frame, and of four frames."""
    mean = sum(_BLOCK_RMS) / len(_BLOCK_RMS)
    first = [_FIRST_FRAME_INSTEAD.get(i, row) for i, row in enumerate(_BLOCK_COEFFICIENTS)]
    # A block of equal frames has sqrt(4) times the coefficients of one of them: so scaled, a still video has equal
    # latents in all frames.
    first_rms = [_FIRST_FRAME_RMS.get(i, rms) for i, rms in enumerate(_BLOCK_RMS)]
    first_scales = _scales(first_rms, mean) / math.sqrt(CAUSAL.frames_period)
    pixels = CAUSAL.spatial_ratio
    return (
        _Block.make(first, first_scales, frames=1, latents=1, pixels=pixels),
        _Block.make(
            _BLOCK_COEFFICIENTS, _scales(_BLOCK_RMS, mean), frames=CAUSAL.frames_period, latents=1, pixels=pixels
        ),
    )


def _general_block(channels: int, *, frames: int, latents: int, pixels: int) -> _Block:
    """The lowest frequencies, scaled as natural video's fall: with about the power -1.8 of the frequency."""
    frequencies = itertools.product(range(3), range(frames), range(pixels), range(pixels))
    lowest = sorted(frequencies, key=lambda f: (math.hypot(*f), f))[: channels * latents]
    whole = 0.42 * math.sqrt(3 * frames * pixels * pixels)
    rms = [whole * (1 + math.hypot(*frequency)) ** -1.8 for frequency in lowest]
    return _Block.make(lowest, _scales(rms, sum(rms) / len(rms)), frames=frames, latents=latents, pixels=pixels)


class SpaceTimeTransform:
    """A fixed transform with an autoencoder's geometry, by default CogVideoX's: 4 frames (the first alone) x 8 x 8
    pixels to 16 channels.

    A space-time-colour cosine transform of which the strongest low frequencies are kept, scaled so that the latents
    of natural video have about unit variance as a whole. Decoding is the transpose: the least-squares reconstruction.
    Encoding is deterministic; `logvar` is None.
    """

    has_variance = False
    normalisation: Normalisation = ByFactor()

    def __init__(self, device: torch.device | str = "cpu", geometry: LatentGeometry = CAUSAL) -> None:
        """
        Args:
            device: where it works.
            geometry: of the latents.

        Raises:
            ValueError: a block of pixels has fewer values than latents are to be made of it.
        """
        self.device, self.geometry = torch.device(device), geometry
        channels, pixels = geometry.channels, geometry.spatial_ratio
        groups = ((geometry.first_frames, geometry.first_latents), (geometry.frames_period, geometry.latents_period))
        for frames, latents in groups:
            if channels * latents > 3 * frames * pixels * pixels:
                raise ValueError(f"no built-in autoencoder of {geometry}: more latents than pixels")
        blocks = (
            _measured_blocks()
            if geometry == CAUSAL
            else tuple(_general_block(channels, frames=f, latents=n, pixels=pixels) for f, n in groups)
        )
        self._first, self._next = (block.on(self.device) for block in blocks)

    @torch.no_grad()
    def encode(self, video_CTHW: Tensor) -> Posterior:
        """Latents of a clip [3, T, H, W] in [-1, 1], as a point; ValueError for a size that does not fit."""
        colours, frames, height, width = video_CTHW.shape
        self.geometry.latent_shape(frames, height, width)
        if colours != 3:
            raise ValueError(f"a video has 3 colours, not {colours}")
        video_CTHW = video_CTHW.to(self.device, torch.float32)
        first = self._first.frames
        parts = [self._analyse(video_CTHW[:, :first], self._first)]
        if frames > first:
            parts.append(self._analyse(video_CTHW[:, first:], self._next))
        return Posterior(torch.cat(parts, dim=1))

    def held(self) -> AbstractContextManager[None]:
        """A context that holds nothing: the matrices are small and stay on the device."""
        return nullcontext()

    @torch.no_grad()
    def decode(self, latents_CTHW: Tensor) -> Tensor:
        """Video of latents; about [-1, 1], not clamped."""
        channels = self.geometry.channels
        if latents_CTHW.shape[0] != channels:
            raise ValueError(f"the built-in autoencoder has {channels} channels, not {latents_CTHW.shape[0]}")
        latents_CTHW = latents_CTHW.to(self.device, torch.float32)
        first = self._first.latents
        parts = [self._synthesise(latents_CTHW[:, :first], self._first)]
        if latents_CTHW.shape[1] > first:
            parts.append(self._synthesise(latents_CTHW[:, first:], self._next))
        return torch.cat(parts, dim=1)

    def fingerprint(self) -> str:
        tables = (
            _BLOCK_COEFFICIENTS,
            sorted(_FIRST_FRAME_INSTEAD.items()),
            _BLOCK_RMS,
            sorted(_FIRST_FRAME_RMS.items()),
        )
        known = tables if self.geometry == CAUSAL else self.geometry
        return f"space-time-transform-{hashlib.blake2b(repr(known).encode(), digest_size=8).hexdigest()}"

    def _analyse(self, video_CTHW: Tensor, block: _Block) -> Tensor:
        _, time, height, width = video_CTHW.shape
        pixels = self.geometry.spatial_ratio
        t, h, w = time // block.frames, height // pixels, width // pixels
        blocks = video_CTHW.reshape(3, t, block.frames, h, pixels, w, pixels).permute(1, 3, 5, 0, 2, 4, 6)
        values = (blocks.reshape(t, h, w, -1) @ block.analysis.T).unflatten(-1, (block.latents, -1))
        return values.permute(4, 0, 3, 1, 2).flatten(1, 2).contiguous()

    def _synthesise(self, latents_CTHW: Tensor, block: _Block) -> Tensor:
        _, T, h, w = latents_CTHW.shape
        t, pixels = T // block.latents, self.geometry.spatial_ratio
        values = latents_CTHW.unflatten(1, (t, block.latents)).permute(1, 3, 4, 2, 0).flatten(-2)
        blocks = (values @ block.synthesis).reshape(t, h, w, 3, block.frames, pixels, pixels)
        return blocks.permute(3, 0, 4, 1, 5, 2, 6).reshape(3, t * block.frames, h * pixels, w * pixels)

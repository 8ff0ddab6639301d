"""How an autoencoder's latents lie over the frames and pixels of a video."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LatentGeometry:
    """Channels of a latent, and what it covers.

    A clip has `first_frames + n * frames_period` frames, n = 0, 1, ..., and as many latent frames as
    `first_latents + n * latents_period`. A causal autoencoder encodes the first frame alone and then every four
    together: 4n + 1 frames, n + 1 latent frames.
    """

    channels: int
    spatial_ratio: int
    """Pixels of a latent pixel, in height and in width."""
    frames_period: int
    first_frames: int = 1
    latents_period: int = 1
    first_latents: int = 1

    @property
    def accepted_frames(self) -> str:
        """For messages: `4k+1`."""
        return f"{self.frames_period}k+{self.first_frames}" if self.frames_period > 1 else "1 or more"

    def takes(self, frames: int) -> bool:
        """Whether a clip may have so many frames."""
        return frames >= self.first_frames and (frames - self.first_frames) % self.frames_period == 0

    def nearest_frames(self, frames: int) -> tuple[int, ...]:
        """`frames` alone where it is accepted, else the nearest accepted numbers below (if any) and above."""
        if self.takes(frames):
            return (frames,)
        if frames < self.first_frames:
            return (self.first_frames,)
        below = (frames - self.first_frames) // self.frames_period * self.frames_period + self.first_frames
        return below, below + self.frames_period

    def latent_frames(self, frames: int) -> int:
        """Latent frames of a clip. Raises ValueError for a clip of a number of frames that is not accepted."""
        if not self.takes(frames):
            raise ValueError(f"{frames} frames do not fit the autoencoder; accepted: {self.accepted_frames}")
        return self.first_latents + (frames - self.first_frames) // self.frames_period * self.latents_period

    def frames_of(self, latent_frames: int) -> int:
        """Frames that so many latent frames are decoded to, the inverse of `latent_frames`."""
        periods = (latent_frames - self.first_latents) // self.latents_period
        return self.first_frames + periods * self.frames_period

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(C, T, H, W) of the latents of a clip. Raises ValueError for a clip that does not fit."""
        ratio = self.spatial_ratio
        latent_frames = self.latent_frames(frames)
        if height < 1 or width < 1 or height % ratio or width % ratio:
            raise ValueError(f"{height} x {width} pixels do not fit the autoencoder; accepted: multiples of {ratio}")
        return self.channels, latent_frames, height // ratio, width // ratio

    def fitting_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(C, T, H, W) of the largest clip that fits into one: for checks, which name what does not fit elsewhere."""
        ratio = self.spatial_ratio
        return self.channels, self.latent_frames(self.nearest_frames(frames)[0]), height // ratio, width // ratio

    def __str__(self) -> str:
        return (
            f"{self.channels} channels, {self.accepted_frames} frames of {self.latents_period} latent frames to "
            f"{self.frames_period}, {self.spatial_ratio} x {self.spatial_ratio} pixels"
        )


def causal_geometry(channels: int, temporal_ratio: int, spatial_ratio: int) -> LatentGeometry:
    """Geometry of causal video autoencoders: the first frame alone, then groups of `temporal_ratio`."""
    return LatentGeometry(channels, spatial_ratio, temporal_ratio)

"""From one decoded clip to the tensors of one training sample.

Every random number of a sample comes from a CPU generator keyed by (seed, position, stream), and each clip is encoded
alone, so that a sample does not depend on who makes it or with which others it is batched.

Shape letters: T latent frames, C latent channels, H, W latent rows and columns, L text tokens, E text features,
F pixel frames; a clip's pixels are frames_FCHW (uint8).
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from vidtron.config.data import ClipSize
from vidtron.config.run import RunConfig
from vidtron.data.decoding.loader import Clip
from vidtron.diffusion.conditioning import noisy_image
from vidtron.diffusion.loss import add_offset
from vidtron.encoders.base import TextEncoder, VideoAutoencoder
from vidtron.inference.image import condition_latents, drawn_latents
from vidtron.inference.objective import image_latent_scale
from vidtron.inference.video_io import pixels_CFHW
from vidtron.parallel.randomness import sample_generator
from vidtron.training.encoded import EncodedClip


@dataclass(frozen=True)
class SampleShape:
    """Shapes of a sample's tensors; the same for all samples of a step."""

    latents_TCHW: tuple[int, int, int, int]
    text_LE: tuple[int, int]
    image_conditioned: bool

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor, in the order in which they are packed."""
        named: dict[str, tuple[int, ...]] = {
            "latents": self.latents_TCHW,
            "noise": self.latents_TCHW,
            "text": self.text_LE,
        }
        if self.image_conditioned:
            named["image_latents"] = self.latents_TCHW
        return named

    def numel(self) -> int:
        """Numbers in a packed sample."""
        return sum(math.prod(shape) for shape in self.shapes().values())

    def unpack(self, flat: Tensor) -> dict[str, Tensor]:
        """Views of a packed sample [numel], by name."""
        shapes = self.shapes()
        parts = flat.split([math.prod(shape) for shape in shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def pad_latent_frames(latents_TCHW: Tensor, frames: int) -> Tensor:
    """Latents of `frames` frames, by copies of the first frame in front (as CogVideoX 1.5 is trained).

    Raises:
        ValueError: there are more latent frames than `frames`.
    """
    missing = frames - latents_TCHW.shape[0]
    if missing < 0:
        raise ValueError(f"{latents_TCHW.shape[0]} latent frames where the model takes {frames}")
    return torch.cat([latents_TCHW[:1].expand(missing, -1, -1, -1), latents_TCHW])


def bernoulli(probability: float, seed: int, position: int, stream: str) -> bool:
    """Whether an event of this probability happens to this sample."""
    return torch.rand((), generator=sample_generator(seed, position, stream), dtype=torch.float64).item() < probability


class SampleMaker:
    """Encodes clips with the frozen encoders."""

    def __init__(
        self,
        config: RunConfig,
        shape_of: Callable[[ClipSize], SampleShape],
        autoencoder: VideoAutoencoder,
        text_encoder: TextEncoder,
        device: torch.device,
        *,
        seed: int,
        dropout: bool = True,
        record: Callable[[Clip, EncodedClip], None] | None = None,
    ) -> None:
        """
        Args:
            config: the run.
            shape_of: what the model expects of clips of a size.
            autoencoder: encodes video; its latents are multiplied by the configured scale factor.
            text_encoder: encodes captions.
            device: where the tensors are made.
            seed: seed of every draw.
            dropout: drop text and image conditions with the configured probabilities; off for evaluation.
            record: takes every clip that had to be encoded, for a cache.
        """
        self.record = record
        self.shape_of = shape_of
        self.autoencoder = autoencoder
        self.text_encoder = text_encoder
        self.device = device
        self.seed = seed
        self.objective = config.objective
        self.scale = config.encoders.scale_factor
        self.image_scale = image_latent_scale(config)
        self.text_dropout = config.objective.text_dropout if dropout else 0.0
        self.image_dropout = config.objective.image_dropout if dropout else 0.0

    @torch.no_grad()
    def make(self, clip: Clip) -> Tensor:
        """A packed sample [numel], float32, on the device.

        Raises:
            ValueError: the clip, named by its key, does not give the shapes that the model expects.
        """
        shape = self.shape_of(clip.size)
        flat = torch.empty(shape.numel(), device=self.device)
        out = shape.unpack(flat)
        position = clip.position
        dropped = bernoulli(self.text_dropout, self.seed, position, "caption_dropout")
        encoded = self._encoded(clip, shape, text_dropped=dropped)
        posterior = sample_generator(self.seed, position, "posterior")
        latents_TCHW = drawn_latents(encoded.posterior, posterior, self.scale)
        try:
            out["latents"].copy_(pad_latent_frames(latents_TCHW, shape.latents_TCHW[0]))
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"sample {clip.key}: latents {tuple(latents_TCHW.shape)} of a clip of {clip.size} do not fill the "
                f"model's {shape.latents_TCHW}"
            ) from error
        out["noise"].copy_(self._noise(shape.latents_TCHW, position))
        out["text"].copy_(self._null_text(shape) if dropped else encoded.text_LE)
        if shape.image_conditioned:
            out["image_latents"].zero_()
            if not bernoulli(self.image_dropout, self.seed, position, "image_dropout"):
                assert encoded.first_frame_CHW is not None
                condition_TCHW = condition_latents(
                    self.autoencoder,
                    self._image(pixels_CFHW(encoded.first_frame_CHW[None]), position),
                    posterior,
                    self.image_scale,
                    shape.latents_TCHW[0],
                    all_frames=self.objective.image_latent_frames == "all",
                )
                out["image_latents"].copy_(condition_TCHW)
        return flat

    @contextmanager
    def held(self) -> Iterator[None]:
        """The encoders' weights stay on the device while this is open, for many samples."""
        with self.autoencoder.held(), self.text_encoder.held():
            yield

    @torch.no_grad()
    def encode(self, clip: Clip) -> EncodedClip:
        """What the encoders say of a decoded clip, on the device."""
        return self._encode(clip, self.shape_of(clip.size), self.text_encoder.encode([clip.caption])[0])

    def _encode(self, clip: Clip, shape: SampleShape, text_LE: Tensor) -> EncodedClip:
        assert clip.frames_TCHW is not None
        frames_FCHW = clip.frames_TCHW.to(self.device, non_blocking=True)
        posterior = self.autoencoder.encode(pixels_CFHW(frames_FCHW))
        return EncodedClip(posterior, text_LE, frames_FCHW[0] if shape.image_conditioned else None)

    def _encoded(self, clip: Clip, shape: SampleShape, *, text_dropped: bool) -> EncodedClip:
        """From the cache, or encoded, and then recorded with its own caption."""
        if clip.cached is not None:
            return clip.cached.to(self.device)
        if self.record is None and text_dropped:
            return self._encode(clip, shape, self._null_text(shape))
        encoded = self.encode(clip)
        if self.record is not None:
            self.record(clip, encoded)
        return encoded

    def _null_text(self, shape: SampleShape) -> Tensor:
        """What stands in the place of a dropped caption's embedding."""
        if self.objective.null_text == "zeros":
            return torch.zeros(shape.text_LE, device=self.device)
        return self._empty_text_LE

    @cached_property
    def _empty_text_LE(self) -> Tensor:
        return self.text_encoder.encode([""])[0]

    def _noise(self, shape: tuple[int, ...], position: int) -> Tensor:
        noise = torch.randn(shape, generator=sample_generator(self.seed, position, "noise"))
        if self.objective.offset_noise == 0:
            return noise
        offset = torch.randn((), generator=sample_generator(self.seed, position, "offset_noise"))
        return add_offset(noise, offset, self.objective.offset_noise)

    def _image(self, image: Tensor, position: int) -> Tensor:
        """The first pixel frame [C, 1, H, W] with Gaussian noise of random strength."""
        if not self.objective.image_noise:
            return image
        generator = sample_generator(self.seed, position, "image_noise")
        strength = torch.randn((), generator=generator)
        return noisy_image(image, strength, torch.randn(image.shape, generator=generator).to(image))

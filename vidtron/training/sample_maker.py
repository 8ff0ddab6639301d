"""From one decoded clip to the tensors of one training sample.

Every random number of a sample comes from a CPU generator keyed by (seed, position, stream), and each clip is encoded
alone, so that a sample does not depend on who makes it or with which others it is batched.

Shape letters: T latent frames, C latent channels, H, W latent rows and columns, L text tokens, E text features,
F pixel frames; a clip's pixels are frames_FCHW (uint8).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, cached_property

import torch
from torch import Tensor

from vidtron.config.data import ClipSize
from vidtron.config.run import RunConfig
from vidtron.config.text import TextSpec
from vidtron.data.decoding.loader import Clip
from vidtron.data.decoding.pixels import pixels_CFHW
from vidtron.diffusion.conditioning import noisy_image
from vidtron.diffusion.loss import add_offset
from vidtron.encoders.base import EncodedText, TextEncoder, VideoAutoencoder
from vidtron.encoders.normalisation import normalisation_of
from vidtron.models.inputs import VIDEO, SampleSpec
from vidtron.parallel.randomness import sample_generator
from vidtron.recipe.condition_latents import condition_latents, drawn_latents, image_normalisation
from vidtron.recipe.null_text import null_texts
from vidtron.training.encoded import EncodedClip
from vidtron.training.packing import CLIP, IMAGE, Packing, latents_name, text_name


def pad_latent_frames(latents_TCHW: Tensor, frames: int) -> Tensor:
    """Latents of `frames` frames, by copies of the first frame in front (as CogVideoX 1.5 is trained).

    Raises:
        ValueError: there are more latent frames than `frames`.
    """
    missing = frames - latents_TCHW.shape[0]
    if missing < 0:
        raise ValueError(f"{latents_TCHW.shape[0]} latent frames where the model takes {frames}")
    return torch.cat([latents_TCHW[:1].expand(missing, -1, -1, -1), latents_TCHW])


def fill_text(
    out: Mapping[str, Tensor], number: int, text: EncodedText, asked: TextSpec, *, dropped: bool = False
) -> None:
    """Put one caption, as an encoder sees it, into the parts of a packed sample.

    Args:
        out: the parts.
        number: of the text.
        text: what is in its place.
        asked: what the model takes of it.
        dropped: said to models with features of their own for that.

    Raises:
        ValueError: the model asks for a pooled vector that the encoder does not give.
    """
    out[text_name(number)].copy_(text.states_BLE)
    if asked.masked:
        out[text_name(number, "mask")].copy_(text.mask_BL)
    if asked.pooled_width:
        if text.pooled_BE is None or text.pooled_BE.shape[-1] != asked.pooled_width:
            raise ValueError(f"the model takes a pooled vector of width {asked.pooled_width} with text {number + 1}")
        out[text_name(number, "pooled")].copy_(text.pooled_BE)
    if asked.own_null:
        out[text_name(number, "dropped")].fill_(float(dropped))


def bernoulli(probability: float, seed: int, position: int, stream: str) -> bool:
    """Whether an event of this probability happens to this sample."""
    return torch.rand((), generator=sample_generator(seed, position, stream), dtype=torch.float64).item() < probability


class SampleMaker:
    """Encodes clips with the frozen encoders."""

    def __init__(
        self,
        config: RunConfig,
        spec_of: Callable[[ClipSize], SampleSpec],
        autoencoder: VideoAutoencoder,
        text_encoders: Sequence[TextEncoder],
        device: torch.device,
        *,
        seed: int,
        dropout: bool = True,
        record: Callable[[Clip, EncodedClip], None] | None = None,
        fps_of: Callable[[Clip], float] = lambda clip: 0.0,
    ) -> None:
        """
        Args:
            config: the run.
            spec_of: what the model's samples of clips of a size consist of.
            autoencoder: encodes video; its latents are normalised as it says, or by the configured scale factor.
            text_encoders: encode captions, one for each of the model's texts.
            device: where the tensors are made.
            seed: seed of every draw.
            dropout: drop text and image conditions with the configured probabilities; off for evaluation.
            record: takes every clip that had to be encoded, for a cache.
            fps_of: frames a second of a clip, for models that are told.
        """
        self.record = record
        self.packing_of = cache(lambda size: Packing(spec_of(size)))
        self.autoencoder = autoencoder
        self.text_encoders = text_encoders
        self.fps_of = fps_of
        self.device = device
        self.seed = seed
        self.config, self.objective = config, config.objective
        self.normalisation = normalisation_of(config.encoders, autoencoder)
        self.image_normalisation = image_normalisation(config, self.normalisation)
        self.text_dropout = config.objective.text_dropout if dropout else 0.0
        self.image_dropout = config.objective.image_dropout if dropout else 0.0

    @torch.no_grad()
    def make(self, clip: Clip) -> Tensor:
        """A packed sample [numel], float32, on the device.

        Raises:
            ValueError: the clip, named by its key, does not give the shapes that the model expects.
        """
        packing = self.packing_of(clip.size)
        spec = packing.spec
        flat = torch.empty(packing.numel, device=self.device)
        out = packing.unpack(flat)
        position = clip.position
        dropped = bernoulli(self.text_dropout, self.seed, position, "caption_dropout")
        encoded = self._encoded(clip, text_dropped=dropped)
        posterior = sample_generator(self.seed, position, "posterior")
        latents_TCHW = drawn_latents(encoded.posterior, posterior, self.normalisation)
        try:
            out[latents_name(VIDEO)].copy_(pad_latent_frames(latents_TCHW, spec.video_TCHW[0]))
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"sample {clip.key}: latents {tuple(latents_TCHW.shape)} of a clip of {clip.size} do not fill the "
                f"model's {spec.video_TCHW}"
            ) from error
        texts = self._null_texts(spec, encoded.texts) if dropped else encoded.texts
        for number, (text, asked) in enumerate(zip(texts, spec.texts, strict=True)):
            fill_text(out, number, text, asked, dropped=dropped)
        if spec.size:
            out[CLIP].copy_(torch.tensor([*clip.size, self.fps_of(clip)]))
        if spec.image_latents:
            out[IMAGE].zero_()
            if not bernoulli(self.image_dropout, self.seed, position, "image_dropout"):
                assert encoded.first_frame_CHW is not None
                condition_TCHW = condition_latents(
                    self.autoencoder,
                    self._image(pixels_CFHW(encoded.first_frame_CHW[None]), position),
                    posterior,
                    self.config,
                    self.image_normalisation,
                    spec.video_TCHW[0],
                )
                out[IMAGE].copy_(condition_TCHW)
        return flat

    @contextmanager
    def held(self) -> Iterator[None]:
        """The encoders' weights stay on the device while this is open, for many samples."""
        with ExitStack() as held:
            held.enter_context(self.autoencoder.held())
            for encoder in self.text_encoders:
                held.enter_context(encoder.held())
            yield

    @torch.no_grad()
    def encode(self, clip: Clip) -> EncodedClip:
        """What the encoders say of a decoded clip, on the device."""
        return self._encode(clip, self._texts(clip.caption))

    def _texts(self, caption: str) -> tuple[EncodedText, ...]:
        return tuple(encoder.encode([caption])[0] for encoder in self.text_encoders)

    def _encode(self, clip: Clip, texts: tuple[EncodedText, ...]) -> EncodedClip:
        assert clip.frames_TCHW is not None
        frames_FCHW = clip.frames_TCHW.to(self.device, non_blocking=True)
        posterior = self.autoencoder.encode(pixels_CFHW(frames_FCHW))
        image_conditioned = self.packing_of(clip.size).spec.image_latents
        return EncodedClip(posterior, texts, frames_FCHW[0] if image_conditioned else None)

    def _encoded(self, clip: Clip, *, text_dropped: bool) -> EncodedClip:
        """From the cache, or encoded, and then recorded with its own caption."""
        if clip.cached is not None:
            return clip.cached.to(self.device)
        spec = self.packing_of(clip.size).spec
        if self.record is None and text_dropped and not any(text.own_null for text in spec.texts):
            return self._encode(clip, self._null_texts(spec))
        encoded = self.encode(clip)
        if self.record is not None:
            self.record(clip, encoded)
        return encoded

    def _null_texts(self, spec: SampleSpec, encoded: tuple[EncodedText, ...] = ()) -> tuple[EncodedText, ...]:
        """What stands in the place of a dropped caption, that is itself where the network replaces it."""
        return null_texts(self.objective, spec.texts, lambda: self._empty_texts, self.device, encoded)

    @cached_property
    def _empty_texts(self) -> tuple[EncodedText, ...]:
        return self._texts("")

    def noise(self, name: str, shape: Sequence[int], position: int) -> Tensor:
        """Noise for a sample's latents of that name: a tensor of that shape on the CPU, the same whoever draws it."""
        kind = "" if name == VIDEO else f".{name}"
        noise = torch.randn(tuple(shape), generator=sample_generator(self.seed, position, f"noise{kind}"))
        if self.objective.offset_noise == 0:
            return noise
        offset = torch.randn((), generator=sample_generator(self.seed, position, f"offset_noise{kind}"))
        return add_offset(noise, offset, self.objective.offset_noise)

    def _image(self, image: Tensor, position: int) -> Tensor:
        """The first pixel frame [C, 1, H, W] with Gaussian noise of random strength."""
        if not self.objective.image_noise:
            return image
        generator = sample_generator(self.seed, position, "image_noise")
        strength = torch.randn((), generator=generator)
        return noisy_image(image, strength, torch.randn(image.shape, generator=generator).to(image))

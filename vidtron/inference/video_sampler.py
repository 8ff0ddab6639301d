"""A model and its encoders: prompt -> latents -> frames.

Shape letters: T C H W latent frames, channels, height, width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from vidtron.config.run import RunConfig
from vidtron.data.decoding.pixels import to_uint8
from vidtron.encoders.base import EncodedText, TextEncoder, VideoAutoencoder
from vidtron.encoders.normalisation import normalisation_of
from vidtron.inference.config import SamplingConfig
from vidtron.inference.image import read_image
from vidtron.inference.prompts import Prompt
from vidtron.inference.replica_network import ReplicaNetwork, with_guidance
from vidtron.models import registry
from vidtron.models.inputs import Conditions, TextInput
from vidtron.parallel import Groups, named_generator, sample_generator
from vidtron.recipe.condition_latents import condition_latents, image_normalisation
from vidtron.recipe.from_config import schedule_of
from vidtron.recipe.null_text import null_texts
from vidtron.recipe.sampler import frame_edit, guidance_of, guided_channels, sample_latents

Progress = Callable[[list[int]], Any]
Place = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Noise [T, C, H, W] -> (the same with given frames in their places, how much of the way each is denoised: [T])."""
DEFAULT_FPS = 8.0


@dataclass(frozen=True)
class GuidedConditions:
    """Conditions of one video, with its text and without it."""

    given: Conditions
    null: Conditions


class VideoSampler:
    """A model and its encoders on the ranks of a run. All ranks of a team make one and call it together."""

    def __init__(
        self,
        config: SamplingConfig,
        run: RunConfig,
        groups: Groups,
        chunks: Sequence[torch.nn.Module],
        autoencoder: VideoAutoencoder,
        text_encoders: Sequence[TextEncoder],
        pair: ProcessGroup | None = None,
    ):
        """
        Args:
            config: what to sample with.
            run: that the model is of, in the layout of this one and with the size of the videos.
            groups: this run's process groups.
            chunks: this rank's bare chunks of the model; put into evaluation mode.
            autoencoder: decodes, and encodes images.
            text_encoders: encode prompts.
            pair: two replicas that halve guidance between them (`pair_of`).
        """
        self.config, self.run, self.groups, self.pair = config, run, groups, pair
        family = registry.family_of(run.model)
        self.network = ReplicaNetwork(
            chunks,
            groups,
            sequence_length=family.sequence_length(run),
            predicts_variance=run.objective.predicted_variance != "none",
            kept_timestep=schedule_of(run.objective).clean_timestep,
        )
        self.latent_shape = family.latent_shape(run)
        self.spec = family.inputs(run)
        self.temporal_patch = family.temporal_patch(run.network)
        self.autoencoder, self.text_encoders = autoencoder, text_encoders
        self.normalisation = normalisation_of(run.encoders, autoencoder)
        self.fps = run.data.fps or DEFAULT_FPS

    def conditions(self, prompt: Prompt) -> GuidedConditions:
        """Encode text and image; each rank does so itself.

        Raises:
            OSError: the image cannot be read.
        """
        run, device = self.run, self.groups.device
        size = fps = None
        if self.spec.size:
            size = torch.tensor([run.data.size], dtype=torch.float32, device=device)
            fps = torch.tensor([self.fps], dtype=torch.float32, device=device)
        image_latents = self._image_latents(prompt) if self.spec.image_latents else None
        texts = self._encoded(prompt.text)
        given = Conditions(self._inputs(texts), image_latents, size, fps)
        dropped = prompt.negative is None
        if prompt.negative is None:
            null = null_texts(run.objective, self.spec.texts, lambda: self._encoded(""), device, texts)
        else:
            null = self._encoded(prompt.negative)
        return GuidedConditions(given, replace(given, texts=self._inputs(null, dropped=dropped)))

    def _encoded(self, text: str) -> tuple[EncodedText, ...]:
        return tuple(encoder.encode([text])[0].to(self.groups.device) for encoder in self.text_encoders)

    def _inputs(self, texts: Sequence[EncodedText], *, dropped: bool = False) -> tuple[TextInput, ...]:
        """A text as the network takes it, a batch of one; `dropped` is said to networks that replace it themselves."""
        return tuple(
            TextInput(
                text.states_BLE[None],
                text.mask_BL[None] if spec.masked else None,
                text.pooled_BE[None] if spec.pooled_width and text.pooled_BE is not None else None,
                torch.tensor([dropped], device=self.groups.device) if spec.own_null else None,
            )
            for text, spec in zip(texts, self.spec.texts, strict=True)
        )

    def latents(
        self,
        prompt: Prompt,
        conditions: GuidedConditions,
        progress: Progress = lambda steps: steps,
        *,
        clip: int = 0,
        place: Place | None = None,
    ) -> Tensor:
        """Normalised latents of one clip, fp32 [T, C, H, W], the same on all ranks of the team.

        Args:
            prompt: whose noise it is.
            conditions: of `prompt`, or of another for this clip.
            progress: wraps the list of steps.
            clip: number of the clip in its video; each has its own noise.
            place: puts given frames into the noise.
        """
        config, run, device = self.config, self.run, self.groups.device
        network = with_guidance(
            self.network,
            conditions.given,
            conditions.null,
            guidance_of(config.method, config.guidance_scale, config.sampling_steps),
            guided_channels(config.method, run, self.latent_shape[1]),
            self.pair,
        )

        video = f"video {prompt.number}" + (f", clip {clip}" if clip else "")

        def drawn(name: str) -> Tensor:
            return torch.randn(self.latent_shape, generator=named_generator(prompt.seed, name))[None].to(device)

        def draw(step: int) -> Tensor:
            return drawn(f"sampler's noise of {video} at step {step}")

        def edit_draw(step: int) -> Tensor:
            return drawn(f"noise of given frames of {video} at step {step}")

        first = sample_generator(prompt.seed, prompt.number, "noise")
        noise = drawn(f"noise of {video}")[0] if clip else torch.randn(self.latent_shape, generator=first).to(device)
        edit = None
        if place is not None:
            noise, share_T = place(noise)
            edit = frame_edit(config.method, run, share_T.to(device), edit_draw)
        method, steps = config.method, config.sampling_steps
        return sample_latents(network, noise[None], method, run, steps, draw, progress, edit)[0]

    def decode(self, latents_TCHW: Tensor) -> Tensor:
        """Decode latents to frames [T, C, H, W], uint8."""
        return to_uint8(self.pixels(latents_TCHW))

    def pixels(self, latents_TCHW: Tensor) -> Tensor:
        """Video [C, T, H, W], about [-1, 1]; latent frames that only padded the model's patches are dropped first."""
        data = self.run.data
        frames = self.autoencoder.geometry.latent_frames(data.num_frames)
        own_TCHW = self.normalisation.undo(latents_TCHW[-frames:])
        return self.autoencoder.decode(own_TCHW.transpose(0, 1))

    def _image_latents(self, prompt: Prompt) -> Tensor:
        if prompt.image is None:
            raise ValueError("there is no image, and the model makes videos from images")
        run = self.run
        latents_TCHW = condition_latents(
            self.autoencoder,
            read_image(prompt.image, run.data.height, run.data.width),
            sample_generator(prompt.seed, prompt.number, "posterior"),
            run,
            image_normalisation(run, self.normalisation),
            self.latent_shape[0],
        )
        return latents_TCHW[None].to(self.groups.device)

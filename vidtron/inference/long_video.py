"""Videos with given frames, and videos of several clips, each of which goes on from the one before (Open-Sora).

Shape letters: N clips, T latent frames, C channels, H, W rows and columns, F pixel frames.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from vidtron.config.run import RunConfig
from vidtron.data.decoding.decode import resize_to_cover
from vidtron.data.decoding.pixels import pixels_CFHW, to_uint8
from vidtron.inference.config import GivenFramesConfig, SamplingConfig
from vidtron.inference.frame_strategy import GivenFrames, loop_prompts, parse_strategy, place_frames
from vidtron.inference.image import read_image
from vidtron.inference.prompts import Prompt
from vidtron.inference.video_io import read_video
from vidtron.inference.video_sampler import GuidedConditions, Progress, VideoSampler
from vidtron.models import registry
from vidtron.parallel import named_generator
from vidtron.recipe.choices import SAMPLERS
from vidtron.recipe.condition_latents import normalised_latents

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm")
"""Of references that are videos; others are images."""


def gives_frames(given: GivenFramesConfig) -> bool:
    """Whether the videos need a `ClipChain`."""
    return bool(given.loop > 1 or given.mask_strategy)


def check_clips(config: SamplingConfig, run: RunConfig, prompts: Sequence[Prompt]) -> Iterator[str]:
    """Errors in given frames and several clips; one message each."""
    given, family = config.given, registry.family_of(run.model)
    if given.loop < 1:
        yield f"--loop {given.loop}; accepted: 1 or more"
    yield from _check_strategy(given)
    if not gives_frames(given):
        return
    if not SAMPLERS[config.method.sampler].keeps_frames or run.objective.schedule == "edm":
        keeping = ", ".join(name for name in SAMPLERS if SAMPLERS[name].keeps_frames)
        yield (
            f"--sampler {config.method.sampler} with --schedule {run.objective.schedule}: cannot keep given frames; "
            f"accepted: {keeping}, on a schedule other than edm"
        )
    if given.loop > 1:
        frames = family.latent_shape(run)[0]
        if not 1 <= given.condition_frames < frames:
            yield f"--condition-frames {given.condition_frames}; accepted: 1 to {frames - 1}, less than a clip has"
        if family.inputs(run).image_latents:
            yield f"--loop {given.loop}: the model makes videos from images; accepted: 1, or a text-to-video model"
    for prompt in prompts:
        try:
            loop_prompts(prompt.text, given.loop)
        except ValueError as error:
            yield f"--prompt: {error}"


def _check_strategy(given: GivenFramesConfig) -> Iterator[str]:
    for path in given.reference:
        if not path.is_file():
            yield f"--reference {path}: no such file; accepted: images and videos"
    if given.reference and not given.mask_strategy:
        yield "--reference: needs --mask-strategy, which says where its frames go; 0 is the first frame of the video"
    try:
        runs = parse_strategy(given.mask_strategy)
    except ValueError as error:
        yield f"--mask-strategy {error}"
        return
    for run in runs:
        if run.loop >= given.loop:
            yield f"--mask-strategy: {run} is of clip {run.loop}; accepted: less than --loop {given.loop}"
        elif run.reference >= len(given.reference) + run.loop:
            yield f"--mask-strategy: {run}; accepted: one of the {len(given.reference)} files of --reference, from 0"


@dataclass(frozen=True)
class ChainConditions:
    """Conditions of the clips of one video."""

    clips: list[GuidedConditions]
    references: list[Tensor]
    """Normalised latents [T, C, H, W] of the files; the ends of the clips come after them."""


class ClipChain:
    """One video of several clips, or one clip with given frames; made anew for each video.

    The end of a clip is encoded alone, as the beginning of a clip is, and the next clip is given its latents.
    """

    def __init__(self, sampler: VideoSampler) -> None:
        """
        Args:
            sampler: makes the clips.
        """
        self.sampler, self.given, self.run = sampler, sampler.config.given, sampler.run
        data, autoencoder = sampler.run.data, sampler.autoencoder
        frames = autoencoder.geometry.latent_frames(data.num_frames)
        self.padding = sampler.latent_shape[0] - frames
        self.overlap = autoencoder.geometry.frames_of(self.given.condition_frames)
        self._decoded: list[Tensor] = []

    def conditions(self, prompt: Prompt) -> ChainConditions:
        """Encode the texts of all clips, and the references.

        Raises:
            OSError: a file cannot be read.
            ValueError: given frames are not in the references or the clip, or would be a part of a token.
        """
        texts = loop_prompts(prompt.text, self.given.loop)
        encoded = {text: self.sampler.conditions(replace(prompt, text=text)) for text in dict.fromkeys(texts)}
        references = [
            self._encoded(self._read(path), prompt, f"reference {number}")
            for number, path in enumerate(self.given.reference)
        ]
        noise_TCHW = torch.zeros(self.sampler.latent_shape, device=self.sampler.groups.device)
        ends = [noise_TCHW[: self.given.condition_frames]] * (self.given.loop - 1)
        for clip in range(self.given.loop):
            self._placed(noise_TCHW, [*references, *ends[:clip]], clip)
        return ChainConditions([encoded[text] for text in texts], references)

    def latents(self, prompt: Prompt, conditions: ChainConditions, progress: Progress = lambda steps: steps) -> Tensor:
        """Normalised latents: [T, C, H, W] of one clip, [N, T, C, H, W] of several."""
        references, made = list(conditions.references), list[Tensor]()
        for clip, told in enumerate(conditions.clips):
            if clip > 0:
                # Not rounded to 8 bits, which would make of two layouts' last bits a difference that is seen.
                ended_CFHW = self.sampler.pixels(made[-1]).clamp(-1, 1)
                self._decoded.append(to_uint8(ended_CFHW))
                references.append(self._encoded(ended_CFHW[:, -self.overlap :], prompt, f"end of clip {clip - 1}"))
            made.append(
                self.sampler.latents(
                    prompt,
                    told,
                    progress,
                    clip=clip,
                    place=partial(self._placed, references=tuple(references), clip=clip),
                )
            )
        return made[0] if len(made) == 1 else torch.stack(made)

    def decode(self, latents: Tensor) -> Tensor:
        """Frames [F, C, H, W], uint8: the first clip and what each of the others adds to it."""
        clips = [*self._decoded, self.sampler.decode(latents if latents.ndim == 4 else latents[-1])]
        return torch.cat([clips[0], *(frames_FCHW[self.overlap :] for frames_FCHW in clips[1:])])

    def _placed(self, noise_TCHW: Tensor, references: Sequence[Tensor], clip: int) -> tuple[Tensor, Tensor]:
        """`Place` for a clip. Frames that pad the model's patches go with the first one, of which they are copies."""
        runs = parse_strategy(self.given.mask_strategy)
        if clip > 0:
            length = self.given.condition_frames
            runs.append(GivenFrames(clip, len(references) - 1, -length, 0, length))
        placed_TCHW, share_T = place_frames(noise_TCHW[self.padding :], references, runs, clip)
        padding_TCHW = noise_TCHW[: self.padding]
        if share_T[0] < 1:
            padding_TCHW = placed_TCHW[:1].expand_as(padding_TCHW)
        share_T = torch.cat((share_T[:1].expand(self.padding), share_T))
        patch = self.sampler.temporal_patch
        tokens = share_T.unflatten(0, (-1, patch))
        if not torch.equal(tokens, tokens[:, :1].expand_as(tokens)):
            raise ValueError(
                f"given frames of clip {clip} are a part of a token ({patch} latent frames, of which the first "
                f"{self.padding} of the clip repeat its first); accepted for --mask-strategy and --condition-frames: "
                "whole tokens"
            )
        return torch.cat((padding_TCHW, placed_TCHW)), share_T

    def _read(self, path: Path) -> Tensor:
        """Pixels [C, F, H, W] of a reference: an image, or as many frames from a video's start as can be encoded."""
        data = self.run.data
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            return read_image(path, data.height, data.width)
        frames_FCHW, _ = read_video(path)
        usable = self.sampler.autoencoder.geometry.nearest_frames(len(frames_FCHW))[0]
        return pixels_CFHW(resize_to_cover(frames_FCHW[:usable], data.height, data.width))

    def _encoded(self, video_CFHW: Tensor, prompt: Prompt, name: str) -> Tensor:
        """Normalised latents [T, C, H, W] of pixels."""
        video_CFHW = video_CFHW.to(self.sampler.groups.device)
        draw = named_generator(prompt.seed, f"posterior of {name} of video {prompt.number}")
        return normalised_latents(self.sampler.autoencoder, video_CFHW, draw, self.sampler.normalisation)

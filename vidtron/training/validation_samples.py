"""Videos that a run samples from the model in training."""

import time
from collections.abc import Sequence
from typing import Any

import torch

from vidtron.checkpoint import folder_name
from vidtron.config.run import RunConfig
from vidtron.config.validation import ValidationConfig
from vidtron.inference.config import SamplingConfig
from vidtron.inference.prompts import VALIDATION_FLAGS, Prompt, read_prompts
from vidtron.inference.video_io import write_video
from vidtron.inference.video_sampler import VideoSampler
from vidtron.parallel import Groups, PatientBarrier
from vidtron.training.evaluate import EVALUATION_SEED
from vidtron.training.folder import SAMPLES
from vidtron.training.sources import DataRoom


def prompts_of(config: ValidationConfig) -> list[Prompt]:
    """The prompts of the command line, then those of the file, with the seed of all evaluations.

    Raises:
        ConfigurationError: the file cannot be used, or images and prompts do not match.
    """
    return read_prompts(
        config.validation_prompts,
        config.validation_prompts_file,
        config.validation_images,
        seed=EVALUATION_SEED,
        flags=VALIDATION_FLAGS,
    )


class ValidationSamples:
    """Samples one video of each prompt into the run folder. The replicas take turns at sampling; the ranks of a
    replica then take turns at decoding."""

    def __init__(
        self,
        config: RunConfig,
        groups: Groups,
        modules: Sequence[torch.nn.Module],
        data: DataRoom,
        prompts: Sequence[Prompt],
    ) -> None:
        """
        Args:
            config: the run; it has a run folder.
            groups: the run's process groups.
            modules: this rank's chunks of the model.
            data: has the encoders.
            prompts: one video each.
        """
        self.config = config
        self.groups = groups
        self.modules = modules
        self.data = data
        self.prompts = prompts
        self.everyone = PatientBarrier(groups)

    def write(self, iteration: int) -> list[dict[str, Any]]:
        """Write the videos; returns a row for each once all of them are there."""
        start = time.perf_counter()
        groups, validation, folder = self.groups, self.config.validation, self.config.checkpoint.save
        assert folder is not None
        sampling = SamplingConfig(
            load=folder,
            sampling_steps=validation.validation_sampling_steps,
            guidance_scale=validation.validation_guidance_scale,
        )
        encoders = self.data.autoencoder, self.data.text_encoders
        sampler = VideoSampler(sampling, self.config, groups, self.modules, *encoders)
        files = [f"{SAMPLES}/{folder_name(iteration)}/{number:04d}.mp4" for number in range(len(self.prompts))]
        own = range(groups.dp_rank, len(self.prompts), groups.dp_size)
        latents = []
        for number in own:
            prompt = self.prompts[number]
            latents.append(sampler.latents(prompt, sampler.conditions(prompt)))
        for turn, (number, latents_TCHW) in enumerate(zip(own, latents, strict=True)):
            if turn % groups.replica_size == groups.replica_rank:
                write_video(folder / files[number], sampler.decode(latents_TCHW), sampler.fps)
        self.everyone.wait()
        seconds = time.perf_counter() - start
        return [
            {
                "file": file,
                "prompt": prompt.text,
                "number": prompt.number,
                "seed": prompt.seed,
                "sampling_steps": sampling.sampling_steps,
                "guidance_scale": sampling.guidance_scale,
                "seconds": seconds,
            }
            for file, prompt in zip(files, self.prompts, strict=True)
        ]

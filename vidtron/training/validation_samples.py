"""Videos that a run samples from the model in training."""

import time
from collections.abc import Sequence
from typing import Any

import torch

from vidtron.checkpoint import folder_name
from vidtron.config.run import RunConfig
from vidtron.config.validation import ValidationConfig
from vidtron.inference.sample import SamplingConfig, VideoSampler
from vidtron.inference.video_io import write_video
from vidtron.parallel import Groups, PatientBarrier
from vidtron.training.evaluate import EVALUATION_SEED
from vidtron.training.folder import SAMPLES
from vidtron.training.sources import DataRoom


def prompts_of(config: ValidationConfig) -> list[str]:
    """The prompts of the command line, then those of the file.

    Raises:
        OSError, UnicodeDecodeError: the file cannot be read.
    """
    lines: list[str] = []
    if config.validation_prompts_file is not None:
        lines = config.validation_prompts_file.read_text(encoding="utf-8").splitlines()
    return [*config.validation_prompts, *(line.strip() for line in lines if line.strip())]


class ValidationSamples:
    """Samples one video of each prompt into the run folder. The replicas take turns at sampling; the ranks of a
    replica then take turns at decoding."""

    def __init__(
        self,
        config: RunConfig,
        groups: Groups,
        modules: Sequence[torch.nn.Module],
        data: DataRoom,
        prompts: Sequence[str],
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
            seed=EVALUATION_SEED,
        )
        encoders = self.data.autoencoder, self.data.text_encoder
        sampler = VideoSampler(sampling, self.config, groups, self.modules, *encoders)
        files = [f"{SAMPLES}/{folder_name(iteration)}/{number:04d}.mp4" for number in range(len(self.prompts))]
        own = range(groups.dp_rank, len(self.prompts), groups.dp_size)
        latents = [sampler.latents(self.prompts[number], number) for number in own]
        for turn, (number, latents_TCHW) in enumerate(zip(own, latents, strict=True)):
            if turn % groups.replica_size == groups.replica_rank:
                write_video(folder / files[number], sampler.decode(latents_TCHW), sampler.fps)
        self.everyone.wait()
        seconds = time.perf_counter() - start
        return [
            {
                "file": file,
                "prompt": prompt,
                "number": number,
                "seed": sampling.seed,
                "sampling_steps": sampling.sampling_steps,
                "guidance_scale": sampling.guidance_scale,
                "seconds": seconds,
            }
            for number, (file, prompt) in enumerate(zip(files, self.prompts, strict=True))
        ]

"""Videos that a run samples from the model in training."""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence

import torch

from vidtron.checkpoint import folder_name
from vidtron.config.run import RunConfig
from vidtron.config.storage import StorageError
from vidtron.config.validation import ValidationConfig
from vidtron.inference.config import SamplingConfig
from vidtron.inference.prompts import VALIDATION_FLAGS, Prompt, read_prompts
from vidtron.inference.video_io import write_video
from vidtron.inference.video_sampler import VideoSampler
from vidtron.parallel import Groups, PatientBarrier
from vidtron.training.evaluate import EVALUATION_SEED
from vidtron.training.folder import SAMPLES
from vidtron.training.log_rows import SampleRow
from vidtron.training.resume import Progress
from vidtron.training.run_data import RunData
from vidtron.training.signals import Interrupted, StopRequests
from vidtron.training.step_report import agree


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


class _Steps(list[int]):
    """Steps before each of which there is a look."""

    def __init__(self, steps: list[int], look: Callable[[], None]) -> None:
        super().__init__(steps)
        self._look = look

    def __iter__(self) -> Iterator[int]:
        for step in super().__iter__():
            self._look()
            yield step


class ValidationSamples:
    """Samples one video of each prompt into the run folder. The replicas take turns at sampling; the ranks of a
    replica then take turns at decoding."""

    def __init__(
        self,
        config: RunConfig,
        groups: Groups,
        modules: Sequence[torch.nn.Module],
        data: RunData,
        prompts: Sequence[Prompt],
        requests: StopRequests,
    ) -> None:
        """
        Args:
            config: the run; it has a run folder.
            groups: the run's process groups.
            modules: this rank's chunks of the model.
            data: has the encoders.
            prompts: one video each.
            requests: looked at between denoising steps and videos.
        """
        self.config = config
        self.groups = groups
        self.modules = modules
        self.data = data
        self.prompts = prompts
        self.requests = requests
        self.everyone = PatientBarrier(groups)

    def write(self, weights: str, progress: Progress) -> list[SampleRow]:
        """Write the videos; returns a row for each once all of them are there.

        Args:
            weights: those that the model has now, as rows name them.
            progress: of the run.

        Raises:
            Interrupted: the ranks have agreed to leave; there are no videos of this evaluation then.
        """
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
        videos = f"{SAMPLES}/{folder_name(progress.iteration)}"
        files = [f"{videos}/{number:04d}.mp4" for number in range(len(self.prompts))]
        own = range(groups.dp_rank, len(self.prompts), groups.dp_size)
        latents, stop = [], None
        try:
            for number in own:
                prompt = self.prompts[number]
                latents.append(sampler.latents(prompt, sampler.conditions(prompt), self._steps))
        except Interrupted as interruption:  # on all ranks of this replica
            stop = interruption.reason
        self._leave_together(stop)
        for turn, (number, latents_TCHW) in enumerate(zip(own, latents, strict=True)):
            stop = self.requests.wish()
            if stop is not None:
                break
            if turn % groups.replica_size == groups.replica_rank:
                try:
                    write_video(folder / files[number], sampler.decode(latents_TCHW), sampler.fps)
                except StorageError as error:
                    self.requests.fail(error)
        try:
            self._leave_together(stop or self.requests.wish())
        except Interrupted:
            if groups.rank == 0:  # they are in no row of the log
                shutil.rmtree(folder / videos, ignore_errors=True)
            raise
        seconds = time.perf_counter() - start
        return [
            SampleRow(
                iteration=progress.iteration,
                consumed_samples=progress.consumed_samples,
                weights=weights,
                file=file,
                prompt=prompt.text,
                number=prompt.number,
                seed=prompt.seed,
                sampling_steps=sampling.sampling_steps,
                guidance_scale=sampling.guidance_scale,
                seconds=seconds,
            )
            for file, prompt in zip(files, self.prompts, strict=True)
        ]

    def _steps(self, steps: list[int]) -> _Steps:
        return _Steps(steps, self._look)

    def _look(self) -> None:
        """Between steps of denoising, which the ranks of a replica do together."""
        reason = agree(self.requests.wish(), self.groups, self.groups.exchange)
        if reason is not None:
            raise Interrupted(reason)

    def _leave_together(self, stop: str | None) -> None:
        """Wait for the other replicas, which may have more to do, and leave if one of them wishes it."""
        self.everyone.wait()
        reason = agree(stop, self.groups)
        if reason is not None:
            raise Interrupted(reason)

"""Sample videos with a checkpoint of a run.

    python tools/sample_video.py --load RUN --prompt "a bicycle on a street" --output VIDEOS

Under torchrun the model is spread as in training (--tensor-model-parallel-size, ...), in any layout.
"""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import tyro
from tqdm import tqdm

from vidtron.config.errors import refuse
from vidtron.config.world import World
from vidtron.inference.sample import SamplingConfig, Video, check, configuration_of, sample
from vidtron.inference.video_io import write_video
from vidtron.parallel import check as check_layout


@dataclass
class Arguments:
    """Sample videos with a checkpoint of a run."""

    sampling: SamplingConfig
    prompt: list[str] = field(default_factory=list)
    """What the videos are to show, one video each."""
    output: Path = Path("samples")
    """Folder for the videos."""


def main() -> None:
    """Parse, check, sample. Exits with status 2 where the arguments are refused."""
    arguments = tyro.cli(Arguments, config=(tyro.conf.OmitArgPrefixes,), description=__doc__)
    world = World.from_environment()
    sampling = arguments.sampling
    try:
        run = replace(configuration_of(sampling.load), parallel=sampling.parallel)
    except ValueError as error:
        refuse([str(error)], world)
    run.training.global_batch_size = run.training.rampup_batch_size = None
    errors = [*check(sampling, run, world), *check_layout(run, world)]
    if not arguments.prompt:
        errors.append("--prompt: missing; accepted: one text or more")
    refuse(errors, world)

    def deliver(video: Video) -> None:
        arguments.output.mkdir(parents=True, exist_ok=True)
        path = arguments.output / f"{video.number:04d}.mp4"
        write_video(path, video.frames_TCHW, video.fps)
        print(f"{path}: {video.prompt}", flush=True)

    def progress(steps: list[int]) -> tqdm:
        return tqdm(steps, disable=world.rank != 0 or not sys.stderr.isatty(), unit="step")

    sample(sampling, run, world, arguments.prompt, deliver, progress)


if __name__ == "__main__":
    main()

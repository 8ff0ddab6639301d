"""Sample videos with a checkpoint.

    python tools/sample_video.py --load RUN --prompt "a bicycle on a street" --output VIDEOS

Under torchrun the model is spread as in training (--tensor-model-parallel-size, ...), in any layout; replicas share
the prompts, or the two halves of guidance. Exit status: 0 all videos are written, 1 some prompts failed, 2 refused.
"""

from vidtron.config import signals

if __name__ == "__main__":
    signals.listen_for_end()

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tqdm import tqdm

from vidtron.checkpoint import CheckpointError, ConversionError
from vidtron.config.errors import ConfigurationError, refuse
from vidtron.config.folders import folder_error
from vidtron.config.program import parse_arguments
from vidtron.config.ranges import Range, refusals, shown
from vidtron.config.world import World
from vidtron.inference.config import SamplingConfig
from vidtron.inference.prompts import Prompt, read_prompts
from vidtron.inference.run import Failure, Video, check, sample, sampled_run
from vidtron.inference.video_files import OutputConfig, VideoFiles
from vidtron.models.registry import with_plugins
from vidtron.recipe.choices import choices


@dataclass
class Arguments:
    """Sample videos with a checkpoint."""

    sampling: SamplingConfig
    output: OutputConfig
    prompt: list[str] = field(default_factory=list)
    """What the videos are to show, one video each."""
    prompts_file: Path | None = None
    """More prompts: a text file with one a line, or a .jsonl file whose lines have the key prompt and, if wanted,
    image, seed, negative_prompt."""
    image: list[Path] = field(default_factory=list)
    """Image-to-video models: the image that the videos start from, one for all prompts or one for each --prompt."""
    first_number: Annotated[int, Range(0, 1_000_000_000)] = 0
    """Number of the first prompt; the noise of a video depends on it."""


def main() -> None:
    """Parse the command line, check it, and sample the videos."""
    arguments = parse_arguments(Arguments, with_plugins(sys.argv[1:]), __doc__, choices())
    world = World.of_launcher()
    config = arguments.sampling
    try:
        run = sampled_run(config, world)
        prompts = read_prompts(
            arguments.prompt,
            arguments.prompts_file,
            arguments.image,
            seed=config.seed,
            negative=config.negative_prompt,
            first_number=arguments.first_number,
        )
    except ConfigurationError as error:
        refuse(error.errors, world)
        raise
    except ValueError as error:
        refuse(str(error).splitlines(), world)
        raise
    errors = [*(refusal.message for refusal in refusals(arguments)), *check(config, run, world, prompts)]
    if not prompts:
        errors.append("--prompt: missing; accepted: one text or more, or --prompts-file")
    problem = folder_error(arguments.output.output) if world.rank == 0 else None
    if problem is not None:
        errors.append(f"--output {shown(str(arguments.output.output))}: {problem}")
    refuse(errors, world)

    files = VideoFiles(arguments.output, config, run, world)

    def deliver(video: Video) -> None:
        print(f"{files.write(video)}: {video.prompt.text}", flush=True)

    def report(failure: Failure) -> None:
        prompt = failure.prompt
        print(f"failed: prompt {prompt.number} ({prompt.text!r}): {failure.reason}", file=sys.stderr, flush=True)

    def progress(prompt: Prompt, steps: list[int]) -> tqdm:
        shown = world.rank == 0 and sys.stderr.isatty()
        return tqdm(steps, desc=f"prompt {prompt.number}", unit="step", disable=not shown)

    try:
        failures = sample(config, run, world, prompts, deliver, progress, report)
    except ConfigurationError as error:  # what reading the checkpoint's files has told
        refuse(error.errors, world)
        raise
    except (CheckpointError, ConversionError) as error:  # what only reading all of the checkpoint could tell
        refuse(str(error).splitlines(), world)
        raise
    if failures:
        if world.rank == 0:
            numbers = ", ".join(str(failure.prompt.number) for failure in failures)
            print(f"{len(failures)} of {len(prompts)} prompts failed: {numbers}", file=sys.stderr, flush=True)
        raise SystemExit(1)


if __name__ == "__main__":
    signals.run_tool(main, "the videos that were written are whole")

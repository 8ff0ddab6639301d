"""What is looked at every --eval-interval steps."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from vidtron.config.ranges import Range


@dataclass
class ValidationConfig:
    """Validation"""

    eval_sigma_bins: Annotated[int, Range(1, 1000)] = 8
    """Ranges of the noise level that an evaluation tells the loss of, each with equally many samples."""
    validation_prompts: list[str] = field(default_factory=list)
    """Sample a video of each of these at every --eval-interval, with the same noise every time."""
    validation_prompts_file: Path | None = None
    """Text file with more such prompts, one a line; or a .jsonl file whose lines have the key prompt and, if wanted,
    image, seed, negative_prompt."""
    validation_images: list[Path] = field(default_factory=list)
    """Image-to-video models: the image that these videos start from, one for all or one for each of
    --validation-prompts."""
    validation_sampling_steps: Annotated[int, Range(1, 10_000)] = 50
    """Evaluations of the network for one of these videos."""
    validation_guidance_scale: Annotated[float, Range(0, 1000)] = 6.0
    """Classifier-free guidance of these videos; 1: none."""

"""Sampled videos as files, with what it takes to make them again."""

import dataclasses
import hashlib
import json
import re
import shutil
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import vidtron
from vidtron.config.run import RunConfig
from vidtron.config.storage import whole_file, writing
from vidtron.config.world import World
from vidtron.inference import weights
from vidtron.inference.config import ENCODER_PATHS, SamplingConfig
from vidtron.inference.prompts import Prompt
from vidtron.inference.run import Video
from vidtron.inference.video_io import write_frames, write_video

_SLUG_LETTERS = 48


@dataclass
class OutputConfig:
    """Output"""

    output: Path = Path("samples")
    """Folder for the videos; each is named by its number, its prompt and its seed."""
    write_frames: bool = False
    """Write the frames as PNG files too, in a folder beside the video."""
    write_latents: bool = False
    """Write the latents too, fp32 [frames, channels, height, width] of the model's scale, for torch.load."""


def stem_of(prompt: Prompt) -> str:
    """Name of a prompt's files: `0003-a-bicycle-on-a-street-1234`."""
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", prompt.text).lower())
    slug = "-".join(words)[:_SLUG_LETTERS].strip("-_") or "video"
    return f"{prompt.number:04d}-{slug}-{prompt.seed}"


class VideoFiles:
    """Writes each video: mp4, frames and latents if wanted, and last a JSON beside them."""

    def __init__(self, output: OutputConfig, config: SamplingConfig, run: RunConfig, world: World) -> None:
        """
        Args:
            output: where, and what.
            config: what is sampled with.
            run: `sampled_run` of it.
            world: the ranks.
        """
        self.output, self.config, self.run, self.world = output, config, run, world

    def write(self, video: Video) -> Path:
        """Write one video; returns the mp4's path.

        Raises:
            StorageError: a file cannot be written. Those before it are whole.
        """
        stem = self.output.output / stem_of(video.prompt)
        files = {"video": stem.with_name(f"{stem.name}.mp4")}
        write_video(files["video"], video.frames_TCHW, video.fps)
        if self.output.write_frames:
            files["frames"] = stem
            if stem.is_dir():  # of a video with more frames
                shutil.rmtree(stem)
            try:
                with writing(stem, "make room there"):
                    write_frames(stem, video.frames_TCHW)
            except BaseException:
                shutil.rmtree(stem, ignore_errors=True)
                raise
        if self.output.write_latents:
            files["latents"] = stem.with_name(f"{stem.name}.pt")
            with writing(files["latents"], "make room there"), whole_file(files["latents"]) as part:
                torch.save(video.latents_TCHW.clone(), part)
        record = {**self._record(video), "files": {kind: path.name for kind, path in files.items()}}
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        about = stem.with_name(f"{stem.name}.json")
        with writing(about, "make room there"), whole_file(about) as part:
            part.write_text(text, encoding="utf-8")
        return files["video"]

    def _record(self, video: Video) -> dict[str, Any]:
        """Everything that the video is a function of; `command` makes it again, on any layout."""
        prompt = video.prompt
        values, image = {**self._values(prompt), "fps": video.fps}, prompt.image
        return {
            "prompt": prompt.text,
            "number": prompt.number,
            **values,
            "image": None if image is None else str(image.resolve()),
            "image_sha256": None if image is None else hashlib.sha256(image.read_bytes()).hexdigest(),
            "model": self.run.model,
            "layout": {"ranks": self.world.size, **dataclasses.asdict(self.config.parallel)},
            "versions": {"vidtron": vidtron.__version__, "torch": torch.__version__},
            "command": command_of(prompt, values),
        }

    def _values(self, prompt: Prompt) -> dict[str, Any]:
        """Flag with underscores -> value, of all that change the video; those left to the training resolved."""
        run, config = self.run, self.config
        flat = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
        method, given = flat.pop("method"), flat.pop("given")
        del flat["parallel"], flat["split_guidance"]  # how it was made, not what
        resolved = {
            "load": weights.location(config.load).resolve(),
            "lora_base": _resolved(config.lora_base),
            "dtype": "bf16" if run.precision.bf16 else "fp32",
            "seed": prompt.seed,
            "negative_prompt": prompt.negative,
            **{name: getattr(run.data, name) for name in ("num_frames", "height", "width")},
            "image_latent_scale": run.objective.image_latent_scale,
            **{name: _resolved(getattr(run.encoders, name)) for name in ENCODER_PATHS},
        }
        placed = {**dataclasses.asdict(given), "reference": [str(path.resolve()) for path in given.reference]}
        values = {**flat, **resolved, **dataclasses.asdict(method), **placed}
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def command_of(prompt: Prompt, values: Mapping[str, Any]) -> list[str]:
    """The words of a command line that makes the video again; its files go where --output says."""
    words = ["python", "tools/sample_video.py", f"--prompt={prompt.text}", "--first-number", str(prompt.number)]
    if prompt.image is not None:
        words += ["--image", str(prompt.image.resolve())]
    for name, value in values.items():
        option = name.replace("_", "-")
        if isinstance(value, list):
            words += [f"--{option}", *value] if value else []
        elif isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif value is not None:
            words.append(f"--{option}={value}")
    return words


def _resolved(path: Path | None) -> Path | None:
    return None if path is None else path.resolve()

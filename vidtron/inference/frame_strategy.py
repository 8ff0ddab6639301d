"""Which frames of a video are given when it is sampled, as Open-Sora's mask strategies say it.

A strategy is `loop,reference,reference_start,target_start,length,edit` for each run of frames, with `;` between them.
Shape letters: T latent frames, C channels, H, W rows and columns.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

FIELDS = "loop,reference,reference_start,target_start,length,edit"


@dataclass(frozen=True)
class GivenFrames:
    """A run of a reference's latent frames that stands in a clip; negative starts count from the end."""

    loop: int = 0
    """Number of the clip."""
    reference: int = 0
    reference_start: int = 0
    target_start: int = 0
    length: int = 1
    edit: float = 0.0
    """How much of the way the frames are denoised: 0 keeps them, 1 makes them anew."""


def parse_strategy(text: str | None) -> list[GivenFrames]:
    """The runs that a strategy names; fields that are left out are 0, the length 1.

    Raises:
        ValueError: with the part that cannot be read and what is accepted.
    """
    return [_parse_run(part) for part in text.split(";")] if text else []


def _parse_run(part: str) -> GivenFrames:
    accepted = f"1 to 6 numbers {FIELDS}; length at least 1, edit 0 to 1"
    fields = part.split(",")
    try:
        given = GivenFrames(*map(int, fields[:5]), *map(float, fields[5:]))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{part!r}: accepted: {accepted}") from error
    if given.loop < 0 or given.reference < 0 or given.length < 1 or not 0 <= given.edit <= 1:
        raise ValueError(f"{part!r}: accepted: {accepted}")
    return given


def place_frames(
    latents_TCHW: Tensor, references: Sequence[Tensor], strategy: Iterable[GivenFrames], loop: int
) -> tuple[Tensor, Tensor]:
    """A clip's noise with the given frames in their places, and how much of the way each frame is denoised: [T].

    As in Open-Sora a run ends with its reference and with the clip, and one frame of a reference stands for several.

    Args:
        latents_TCHW: noise.
        references: latents [T, C, H, W], each of its own length.
        strategy: of all clips.
        loop: number of this clip.

    Raises:
        ValueError: a run's reference is not there, or the run starts outside it or the clip, or is shorter in one of
            them than in the other.
    """
    placed_TCHW, share_T = latents_TCHW.clone(), torch.ones(len(latents_TCHW))
    for given in strategy:
        if given.loop != loop:
            continue
        if given.reference >= len(references):
            raise ValueError(f"{given}: there are {len(references)} references, counted from 0")
        source_TCHW = references[given.reference][_run(given, given.reference_start, references[given.reference])]
        target = _run(given, given.target_start, latents_TCHW)
        if len(source_TCHW) not in (1, target.stop - target.start):
            raise ValueError(
                f"{given}: {len(source_TCHW)} latent frames for {target.stop - target.start}; accepted: 1 or as many"
            )
        placed_TCHW[target] = source_TCHW.to(placed_TCHW)
        share_T[target] = given.edit
    return placed_TCHW, share_T


def _run(given: GivenFrames, start: int, latents_TCHW: Tensor) -> slice:
    frames = len(latents_TCHW)
    first = start + frames if start < 0 else start
    if not 0 <= first < frames:
        raise ValueError(f"{given}: start {start} of {frames} latent frames; accepted: {-frames} to {frames - 1}")
    return slice(first, min(first + given.length, frames))


def loop_prompts(text: str, loops: int) -> list[str]:
    """The prompt of each clip: `|0|a|2|b` is a for clips 0 and 1, b from clip 2 on; any other text is for all.

    Raises:
        ValueError: the numbers do not rise, or reach beyond the last clip.
    """
    if not text.startswith("|0|"):
        return [text] * loops
    parts = text.split("|")[1:]
    try:
        starts = [*map(int, parts[::2]), loops]
        if len(parts) % 2 or any(start >= after for start, after in pairwise(starts)):
            raise ValueError
    except ValueError as error:
        raise ValueError(
            f"prompt {text!r} of {loops} clips; accepted: |0|TEXT|N|TEXT..., each N a clip later than the one before"
        ) from error
    counts = [after - start for start, after in pairwise(starts)]
    return [part for part, count in zip(parts[1::2], counts, strict=True) for _ in range(count)]

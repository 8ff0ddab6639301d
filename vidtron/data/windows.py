"""Which frames of a clip a sample shows: arithmetic on time stamps, the same for every decoder."""

import bisect
from typing import Literal

from vidtron.data.index import ClipFacts

ShortClip = Literal["skip", "pad", "loop"]
TOLERANCE_SECONDS = 1e-3
"""Time stamps are rounded to the container's clock; frames this close to a wanted time count as on time."""


def available_frames(clip: ClipFacts, fps: float | None) -> int:
    """Frames the whole clip gives: all of them, or those at `fps` from the first time stamp to the last."""
    if fps is None:
        return clip.frames
    return int((clip.duration + TOLERANCE_SECONDS) * fps) + 1


def frame_numbers(
    clip: ClipFacts, num_frames: int, fps: float | None, short_clip: ShortClip, where: float
) -> list[int]:
    """Numbers of the frames of one sample, `num_frames` of them, never decreasing unless a short clip loops.

    Args:
        clip: the clip.
        num_frames: frames wanted.
        fps: frames a second wanted, each the last one shown at its time (so a clip with fewer frames a second
        repeats them); None: consecutive
            frames.
        short_clip: pad continues a clip that is too short with its last frame, loop repeats it.
        where: place of the window in [0, 1): 0 is the start of the clip, 0.5 its middle.

    Raises:
        ValueError: the clip is too short and short clips are to be skipped.
    """
    available = available_frames(clip, fps)
    if available >= num_frames:
        if fps is None:
            start = int(where * (clip.frames - num_frames + 1))
            return list(range(start, start + num_frames))
        slack = max(0.0, clip.duration - (num_frames - 1) / fps)
        return [_frame_at(clip, where * slack + i / fps) for i in range(num_frames)]
    if short_clip == "skip":
        raise ValueError(f"has {available} of {num_frames} frames")
    base = list(range(clip.frames)) if fps is None else [_frame_at(clip, i / fps) for i in range(available)]
    if short_clip == "loop":
        return [base[i % available] for i in range(num_frames)]
    return base + [base[-1]] * (num_frames - available)


def _frame_at(clip: ClipFacts, seconds: float) -> int:
    """Number of the frame that is shown at a time."""
    if clip.times is None:
        number = int((seconds + TOLERANCE_SECONDS) * clip.fps)
    else:
        number = bisect.bisect_right(clip.times, seconds + TOLERANCE_SECONDS) - 1
    return min(max(number, 0), clip.frames - 1)

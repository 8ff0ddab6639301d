"""Which frames of a clip a sample shows: arithmetic on time stamps, the same for every decoder."""

import bisect
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from vidtron.data.shards.index import ClipFacts

ShortClip = Literal["skip", "pad", "loop"]
SAT_SKIPPED_FRAMES = 3
"""SFTDataset's `skip_frms_num`."""
TOLERANCE_SECONDS = 1e-3
"""Time stamps are rounded to the container's clock; frames this close to a wanted time count as on time."""


class RandomIntegers(Protocol):
    """What Python's `random.Random` has."""

    def randint(self, a: int, b: int) -> int:
        """An integer from a to b, both included."""


def available_frames(clip: ClipFacts, fps: float | None, frame_interval: int = 1) -> int:
    """Frames the whole clip gives: every `frame_interval`-th, or those at `fps` from the first time stamp to the
    last."""
    if fps is None:
        return (clip.frames - 1) // frame_interval + 1
    return int((_last_time(clip) + TOLERANCE_SECONDS) * fps) + 1


def available_frames_of(
    frames: NDArray[np.int64], clip_fps: NDArray[Any], fps: float | None, frame_interval: int = 1
) -> NDArray[np.int64]:
    """`available_frames` of many clips; `clip_fps` counts only with `fps`."""
    if fps is None:
        return (frames - 1) // frame_interval + 1
    return (((frames - 1) / clip_fps + TOLERANCE_SECONDS) * fps).astype(np.int64) + 1


def frame_numbers(
    clip: ClipFacts, num_frames: int, fps: float | None, short_clip: ShortClip, where: float, frame_interval: int = 1
) -> list[int]:
    """Numbers of the frames of one sample, `num_frames` of them, never decreasing unless a short clip loops.

    Args:
        clip: the clip.
        num_frames: frames wanted.
        fps: frames a second wanted, each the last one shown at its time (so a clip with fewer frames a second
            repeats them); None: by `frame_interval`.
        short_clip: pad continues a clip that is too short with its last frame, loop repeats it.
        where: place of the window in [0, 1): 0 is the start of the clip, 0.5 its middle.
        frame_interval: without `fps`, every so-many-th frame is taken.

    Raises:
        ValueError: the clip is too short and short clips are to be skipped.
    """
    available = available_frames(clip, fps, frame_interval)
    if available >= num_frames:
        if fps is None:
            span = (num_frames - 1) * frame_interval + 1
            start = int(where * (clip.frames - span + 1))
            return list(range(start, start + span, frame_interval))
        slack = max(0.0, _last_time(clip) - (num_frames - 1) / fps)
        return [_frame_at(clip, where * slack + i / fps) for i in range(num_frames)]
    if short_clip == "skip":
        raise ValueError(f"has {available} of {num_frames} frames")
    if fps is None:
        base = list(range(0, clip.frames, frame_interval))
    else:
        base = [_frame_at(clip, i / fps) for i in range(available)]
    if short_clip == "loop":
        return [base[i % available] for i in range(num_frames)]
    return base + [base[-1]] * (num_frames - available)


def opensora_frame_numbers(frames: int, num_frames: int, frame_interval: int, random: RandomIntegers) -> list[int]:
    """Frames of one sample as Open-Sora 1.1 takes them: a window of num_frames x interval frames at random, and
    `num_frames` of it at even distances, its last one included.

    Args:
        frames: of the clip.
        num_frames: frames wanted.
        frame_interval: distance of the frames, about.
        random: one number is drawn.
    """
    length = num_frames * frame_interval
    start = random.randint(0, max(0, frames - length - 1))
    end = min(start + length, frames)
    return [int(number) for number in np.linspace(start, end - 1, num_frames)]


def sat_frame_numbers(frames: int, clip_fps: float, num_frames: int, fps: float) -> list[int]:
    """Frames of one sample as CogVideoX's SFTDataset takes them: nothing is drawn, the first three frames are never
    shown, and what is too short goes on with its last frame.

    A clip that gives more than `num_frames` at `fps` shows the stretch of that length behind its third frame, at whole
    steps. A shorter one that has more frames than wanted shows all but its first and last three at whole steps, and
    any other one 4k + 1 consecutive frames.

    Args:
        frames: of the clip.
        clip_fps: its frames a second.
        num_frames: frames wanted.
        fps: frames a second wanted, about.

    Raises:
        ValueError: the rule gives no frames, or frames that the clip does not have, where SFTDataset itself fails.
    """
    end, step = (
        int(found[0]) for found in _sat_ranges(np.array([frames]), np.array([clip_fps], np.float64), num_frames, fps)
    )
    if step < 1:
        raise ValueError(f"has {clip_fps:g} frames a second where {fps:g} are wanted")
    numbers = list(range(SAT_SKIPPED_FRAMES, end, step))
    if not numbers or numbers[-1] >= frames:
        raise ValueError(f"its {frames} frames are too few")
    return (numbers + numbers[-1:] * num_frames)[:num_frames]


def sat_gives_frames(
    frames: NDArray[np.int64], clip_fps: NDArray[np.float64], num_frames: int, fps: float
) -> NDArray[np.bool_]:
    """For which of many clips `sat_frame_numbers` raises nothing."""
    end, step = _sat_ranges(frames, clip_fps, num_frames, fps)
    last = end - 1 - (end - 1 - SAT_SKIPPED_FRAMES) % np.maximum(step, 1)
    return (step > 0) & (end > SAT_SKIPPED_FRAMES) & (last < frames)


def _sat_ranges(
    frames: NDArray[np.int64], clip_fps: NDArray[np.float64], num_frames: int, fps: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(end, step) of each clip's range of frames from the fourth on, in SFTDataset's own order of operations."""
    by_rate = frames / clip_fps * fps > num_frames
    by_number = ~by_rate & (frames > num_frames)
    inner = frames - 2 * SAT_SKIPPED_FRAMES
    rest = inner % 4
    end = SAT_SKIPPED_FRAMES + np.where(by_number, inner, np.where(rest == 0, inner - 3, inner - rest + 1))
    end = np.where(by_rate, (SAT_SKIPPED_FRAMES + num_frames / fps * clip_fps).astype(np.int64), end)
    step = np.where(by_rate | by_number, (end - SAT_SKIPPED_FRAMES) // num_frames, 1)
    return end, np.where(by_rate, step, np.maximum(step, 1))


def _last_time(clip: ClipFacts) -> float:
    """Seconds from the first frame's time stamp to the last one's: a frame less than the clip's duration."""
    return (clip.frames - 1) / clip.fps


def _frame_at(clip: ClipFacts, seconds: float) -> int:
    """Number of the frame that is shown at a time."""
    if clip.times is None:
        number = int((seconds + TOLERANCE_SECONDS) * clip.fps)
    else:
        number = bisect.bisect_right(clip.times, seconds + TOLERANCE_SECONDS) - 1
    return min(max(number, 0), clip.frames - 1)

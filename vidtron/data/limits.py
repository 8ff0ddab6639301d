"""What a clip may claim of itself. Files and indexes that claim more are damaged, or made to exhaust their readers."""

LARGEST_SIDE = 16384
"""Pixels of the width, and of the height."""
MOST_FRAMES = 10_000_000
MOST_FPS = 1000.0
LEAST_FPS = 1e-6
MOST_SECONDS = 1e6


def claim_problem(width: int, height: int, frames: int, seconds: float) -> str:
    """What is wrong with what a file claims, before anything of it is decoded; empty if nothing is. A claim that is
    not made is 0."""
    if max(width, height) > LARGEST_SIDE:
        return f"it claims {width} x {height} pixels; accepted: at most {LARGEST_SIDE} a side"
    if frames > MOST_FRAMES:
        return f"it claims {frames} frames; accepted: at most {MOST_FRAMES}"
    if seconds > MOST_SECONDS:
        return f"it claims {seconds:.6g} seconds; accepted: at most {MOST_SECONDS:g}"
    return ""

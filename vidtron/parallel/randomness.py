"""Random numbers that depend on what they are for, never on which rank draws them or what was drawn before."""

import hashlib

import torch

STREAMS = (
    "timestep",
    "noise",
    "offset_noise",
    "posterior",
    "caption_dropout",
    "image_dropout",
    "image_noise",
    "frame_mask",
    "crop",
)
"""Everything that is drawn for one training sample. A new stream never shifts the others."""


def sample_generator(seed: int, position: int, stream: str) -> torch.Generator:
    """CPU generator of one sample's draws.

    Args:
        seed: the run's `--seed`.
        position: number of the sample since step 0.
        stream: what the numbers are for, one of `STREAMS`.

    Raises:
        ValueError: the stream is unknown or the position negative.
    """
    if stream not in STREAMS:
        raise ValueError(f"unknown random stream {stream!r}; accepted: {', '.join(STREAMS)}")
    if position < 0:
        raise ValueError(f"position {position}; accepted: 0 or more")
    return _keyed_generator(("sample", seed, position, stream))


def named_generator(seed: int, name: str) -> torch.Generator:
    """CPU generator for one thing that a run has once: a parameter by its global name, a permutation."""
    return _keyed_generator(("name", seed, name))


def _keyed_generator(key: tuple[str | int, ...]) -> torch.Generator:
    # A hash, because sums collide: (seed 1, position 2) must not be (seed 2, position 1). torch's CPU generator
    # looks at 32 bits of its seed; so two of 10^5 generators may agree, which only makes two samples share noise.
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))

"""Random numbers that depend on what they are for, never on which rank draws them or what was drawn before."""

import hashlib
import random
from collections.abc import Sequence

import torch
from torch import Tensor

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
    return _keyed_generator(_sample_key(seed, position, stream))


def sample_random(seed: int, position: int, stream: str) -> random.Random:
    """Python's generator of one sample's draws, for what is drawn as others draw it with Python's `random`.

    Arguments and errors as of `sample_generator`; the two are independent of each other.
    """
    return random.Random(int.from_bytes(_digest(("python", *_sample_key(seed, position, stream))), "little"))


def named_generator(seed: int, name: str) -> torch.Generator:
    """CPU generator for one thing that a run has once: a parameter by its global name, a permutation."""
    return _keyed_generator(("name", seed, name))


def kept(
    share: float, seed: int, positions: Sequence[int], name: str, rows: range, columns: range, device: torch.device
) -> Tensor:
    """Dropout's mask of some elements: true with probability `share`, [rows, samples, columns].

    Each element is a hash of its own place, so every rank can draw its part and a second pass draws the same.

    Args:
        share: probability that an element is kept.
        seed: the run's `--seed`.
        positions: number of each sample since step 0.
        name: what is masked, by its name in the whole model.
        rows: tokens of the whole sequence that the rank holds.
        columns: features of the whole width that the rank holds.
        device: where the mask is needed.
    """
    keys = [int.from_bytes(_digest(("dropout", seed, position, name))[:4], "little") for position in positions]
    keys_B = _mixed(_int32(keys, device))
    rows_S = _mixed(torch.arange(rows.start, rows.stop, dtype=torch.int32, device=device))
    columns_D = _mixed(_int32([0x9E3779B9], device) + torch.arange(columns.start, columns.stop, device=device).int())
    tokens_SB = _mixed(rows_S[:, None] + keys_B)
    hashes_SBD = _mixed(tokens_SB[:, :, None] ^ columns_D)
    return hashes_SBD < min(round(share * 2**32) - 2**31, 2**31 - 1)


def _int32(values: Sequence[int], device: torch.device) -> Tensor:
    """32-bit patterns as torch has them, signed."""
    return torch.tensor([(value + 2**31) % 2**32 - 2**31 for value in values], dtype=torch.int32, device=device)


def _mixed(x: Tensor) -> Tensor:
    """MurmurHash3's finalizer of 32 bits: every bit of the input changes each bit of the output about half the time.

    int32 has the bits of uint32 and wraps alike; only its right shift must be cleared of the sign.
    """
    x = (x ^ ((x >> 16) & 0xFFFF)) * -2048144789  # 0x85EBCA6B
    x = (x ^ ((x >> 13) & 0x7FFFF)) * -1028477387  # 0xC2B2AE35
    return x ^ ((x >> 16) & 0xFFFF)


def _sample_key(seed: int, position: int, stream: str) -> tuple[str | int, ...]:
    if stream not in STREAMS:
        raise ValueError(f"unknown random stream {stream!r}; accepted: {', '.join(STREAMS)}")
    if position < 0:
        raise ValueError(f"position {position}; accepted: 0 or more")
    return "sample", seed, position, stream


def _keyed_generator(key: tuple[str | int, ...]) -> torch.Generator:
    # torch's CPU generator looks at 32 bits of its seed; so two of 10^5 generators may agree, which only makes two
    # samples share noise.
    return torch.Generator().manual_seed(int.from_bytes(_digest(key)[:4], "little"))


def _digest(key: tuple[str | int, ...]) -> bytes:
    # A hash, because sums collide: (seed 1, position 2) must not be (seed 2, position 1).
    return hashlib.blake2b(repr(key).encode(), digest_size=8).digest()

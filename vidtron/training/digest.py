"""Names for which samples, and which of their frames, a step used."""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from vidtron.data.shards.index import ShardIndex


def digest(index: ShardIndex, rows: Iterable[int]) -> str:
    """Hash of the samples' keys in their order in the global batch: equal batches have equal digests."""
    keys = index.keys(np.fromiter(rows, dtype=np.int64))
    return hashlib.blake2b("\n".join(keys).encode(), digest_size=8).hexdigest()


def clip_code(key: str, frame_numbers: Sequence[int]) -> int:
    """A number for a sample and the frames it shows: 48 bits, which fit into a float64."""
    told = f"{key}\n{' '.join(map(str, frame_numbers))}"
    return int.from_bytes(hashlib.blake2b(told.encode(), digest_size=6).digest(), "little")


def clips_digest(codes: Iterable[int]) -> str:
    """Hash of the `clip_code`s of a global batch in their order: equal batches that show equal frames have equal
    digests."""
    return hashlib.blake2b(" ".join(map(str, codes)).encode(), digest_size=8).hexdigest()

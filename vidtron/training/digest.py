"""Names for which samples a step used."""

import hashlib
from collections.abc import Iterable

import numpy as np

from vidtron.data.shards.index import ShardIndex


def digest(index: ShardIndex, rows: Iterable[int]) -> str:
    """Hash of the samples' keys in their order in the global batch: equal batches have equal digests."""
    keys = index.keys(np.fromiter(rows, dtype=np.int64))
    return hashlib.blake2b("\n".join(keys).encode(), digest_size=8).hexdigest()

"""What a run would use of an index: its buckets, or its one size."""

import numpy as np
from numpy.typing import NDArray

from vidtron.data.planning.plan import Plan


def buckets_of(plan: Plan, rows: NDArray[np.int64], epoch: int = 0) -> list[str | None]:
    """Names of the buckets that rows find in an epoch; None: the epoch leaves the row out.

    Goes through the whole epoch. A row that comes up several times (folders blended by weight) is told by one of them.

    Args:
        plan: the plan.
        rows: rows of its index, rising.
        epoch: number of the epoch.
    """
    if not len(rows):
        return []
    found = np.full(len(rows), -1)
    for window in plan.window_rows(epoch):
        members = np.concatenate(window)
        numbers = np.repeat(np.arange(len(window)), [len(bucket) for bucket in window])
        places = np.searchsorted(rows, members).clip(max=len(rows) - 1)
        hits = rows[places] == members
        found[places[hits]] = numbers[hits]
    return [plan.buckets[number].name if number >= 0 else None for number in found.tolist()]

"""What the launcher told this process of the ranks: the environment variables of torchrun."""

import os
from collections.abc import Mapping
from typing import NamedTuple

from vidtron.config.ranges import Range, shown

MOST_RANKS = 1_000_000


class Launched(NamedTuple):
    """Where a process stands."""

    size: int
    rank: int
    local_rank: int
    local_size: int
    """Ranks on this machine."""


def launched(environment: Mapping[str, str] = os.environ) -> tuple[Launched, list[str]]:
    """The world torchrun describes, one rank under plain `python`; and a message for each variable that is wrong."""
    errors: list[str] = []

    def number(name: str, default: int, accepted: Range) -> int:
        value = environment.get(name)
        if value is None:
            return default
        try:
            found = int(value)
        except ValueError:
            found = -1
        if found in accepted:
            return found
        errors.append(f"{name}={shown(value)} in the environment; accepted: {accepted}, or unset")
        return default

    size = number("WORLD_SIZE", 1, Range(1, MOST_RANKS))
    rank = number("RANK", 0, Range(0, MOST_RANKS))
    local_rank = number("LOCAL_RANK", 0, Range(0, MOST_RANKS))
    local_size = number("LOCAL_WORLD_SIZE", 1, Range(1, MOST_RANKS))
    if not errors and rank >= size:
        errors.append(f"RANK={rank} in the environment, of WORLD_SIZE={size}; accepted: 0 to {size - 1}")
    if not errors and local_rank >= size:
        errors.append(f"LOCAL_RANK={local_rank} in the environment, of WORLD_SIZE={size}; accepted: 0 to {size - 1}")
    if size > 1:
        errors += [
            f"{name} is not in the environment, of WORLD_SIZE={size}; accepted: as torchrun sets it"
            for name in ("MASTER_ADDR", "MASTER_PORT")
            if not environment.get(name)
        ]
        if environment.get("MASTER_PORT"):
            number("MASTER_PORT", 1, Range(1, 65535))
    return Launched(size, rank, local_rank, local_size), errors


def launched_rank() -> int:
    """This process's rank as the launcher gave it, 0 where that cannot be understood."""
    return launched()[0].rank

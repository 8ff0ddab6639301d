"""What is wrong with a configuration, told all at once."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NoReturn

from vidtron.config.ranges import refusals

if TYPE_CHECKING:
    from vidtron.config.run import RunConfig
    from vidtron.config.world import World

EXIT_STATUS = 2
"""Status of a process that refuses its configuration."""

HEAD_START_SECONDS = 5.0
"""torchrun kills every rank once one has left. The others wait this long, so that rank 0 gets to print."""

Check = Callable[["RunConfig", "World"], list[str]]


class ConfigurationError(ValueError):
    """A configuration that cannot be used. `errors` holds one message per mistake."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = errors


def collect_errors(checks: Iterable[Check], config: RunConfig, world: World) -> list[str]:
    """Run every room's check and return all messages, each once, in the order of the checks.

    A check may stumble over a value that an earlier check has refused already (a size of 0 as a divisor). Such an
    exception is left out: it comes back if it still holds once those errors are mended. Without an error before it,
    it is raised. Numbers far beyond every range and names that no file can have are told alone: a check might compute
    with them for hours.
    """
    refused = list(refusals(config))
    if any(refusal.hopeless for refusal in refused):
        return list(dict.fromkeys(refusal.message for refusal in refused))
    errors: list[str] = []
    for check in checks:
        try:
            errors += check(config, world)
        except Exception:
            if not errors:
                raise
    return list(dict.fromkeys(errors))


def exit_with(errors: list[str], rank: int, status: int = EXIT_STATUS) -> NoReturn:
    """End the process with a status; rank 0 prints the errors first, one a line."""
    if rank == 0:
        for error in errors:
            print(f"error: {' '.join(error.splitlines())}", file=sys.stderr)
        sys.stderr.flush()
    else:
        time.sleep(HEAD_START_SECONDS)
    raise SystemExit(status)


def refuse(errors: list[str], world: World) -> None:
    """Return if there are no errors; else rank 0 prints each on a line and every rank exits with status 2."""
    if errors:
        exit_with(errors, world.rank)

"""Samples that could not be decoded: counted, named, remembered."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vidtron.data.decoding.loader import BadSample
from vidtron.data.planning.plan import Plan
from vidtron.parallel import Groups, gather_objects


class TooManyBadSamplesError(RuntimeError):
    """More samples than `--max-bad-samples` could not be decoded."""


@dataclass(frozen=True)
class Replaced:
    """What stood in the place of bad samples in one step."""

    new: tuple[BadSample, ...]
    """Bad samples that the run has met for the first time, each once, by position."""
    positions: int
    """Positions of the step at which another sample than the planned one was used."""


class BadSamples:
    """The bad samples of a run, the same on all ranks.

    Which samples a step has really used is told in the step's one all-reduce (`step_report.combine`). From that and
    the plan every rank knows which samples are bad; only why they are is asked of the rank that tried, in steps with
    new ones.
    """

    def __init__(
        self,
        plan: Plan,
        limit: int,
        groups: Groups,
        say: Callable[[str], None],
        remembered: Sequence[dict[str, Any]] = (),
    ) -> None:
        """
        Args:
            plan: of the run.
            limit: `--max-bad-samples`.
            groups: the run's process groups.
            say: told of each bad sample.
            remembered: what `state` gave, from a checkpoint.
        """
        self.plan = plan
        self.limit = limit
        self.groups = groups
        self.say = say
        self._known = {entry["row"]: BadSample(**entry) for entry in remembered}
        self.rows: set[int] = set(self._known)
        """Rows of the index that need not be tried again; loaders look at this very set."""

    def __len__(self) -> int:
        return len(self._known)

    def state(self) -> list[dict[str, Any]]:
        """For the checkpoint."""
        return [asdict(sample) for sample in self._known.values()]

    def count(self, first: int, used: Sequence[int], tried: Iterable[BadSample]) -> Replaced:
        """Take note of a step. Called by all ranks together.

        Args:
            first: position of the step's first sample.
            used: rows that it has used, by slot.
            tried: what this rank has tried in vain for the step.

        Raises:
            TooManyBadSamplesError: there are more than the limit by now.
        """
        planned = self.plan.rows(first, len(used)).tolist()
        replaced = [slot for slot, row in enumerate(used) if row != planned[slot]]
        new: dict[int, BadSample] = {}
        for slot in replaced:
            for row in self._rejected(first + slot, planned[slot], used[slot]):
                if row not in self._known and row not in new:
                    new[row] = self._named(first + slot, row)
        if new:
            every = gather_objects(list(tried), self.groups.world)
            # A row may have been tried at several positions: the first one counts, whichever rank tried it.
            told = {(sample.row, sample.position): sample for samples in every for sample in samples}
            new = {row: told.get((row, sample.position), sample) for row, sample in new.items()}
            self._known |= new
            self.rows |= set(new)
            for sample in new.values():
                self.say(f"bad sample {sample.key} of {sample.shard} (position {sample.position}): {sample.reason}")
            if len(self) > self.limit:
                raise TooManyBadSamplesError(
                    f"{len(self)} samples could not be decoded, more than --max-bad-samples {self.limit}; the last: "
                    + "; ".join(f"{s.key} of {s.shard}: {s.reason}" for s in list(new.values())[-5:])
                )
        return Replaced(tuple(new.values()), len(replaced))

    def _rejected(self, position: int, planned: int, used: int) -> list[int]:
        """Rows that were tried at a position before the one that was used."""
        rejected, attempt, row = [], 0, planned
        while row != used:
            rejected.append(row)
            attempt += 1
            row = self.plan.replacement(position, attempt).row
        return rejected

    def _named(self, position: int, row: int) -> BadSample:
        sample = self.plan.index[row]
        return BadSample(position, row, sample.key, str(sample.shard), "it could not be decoded")

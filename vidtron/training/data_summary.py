"""What a run tells of its data at its start."""

import threading
from collections.abc import Callable, Iterator

from vidtron.data.planning.plan import Plan
from vidtron.data.planning.plan_report import report_warnings
from vidtron.training.held_out import HeldOut
from vidtron.training.latent_cache import LatentCache
from vidtron.training.run_data import RunData
from vidtron.training.training_plan import training_plan

QUICKLY_SUMMARIZED = 2_000_000
"""Samples whose buckets are found within about a second."""


def summarize(data: RunData, say: Callable[[str], None]) -> None:
    """Tell what there is to train on, and what of it should be known.

    That takes a pass over a whole epoch. Where it would hold up the start, a thread makes it, with a plan of its own,
    and the training begins meanwhile.
    """
    if len(data.plan.index) <= QUICKLY_SUMMARIZED:
        _say_all(data, data.plan, say)
        return
    plan = training_plan(data.config, data.family)
    threading.Thread(target=_say_all, args=(data, plan, say), name="data summary", daemon=True).start()


def _say_all(data: RunData, plan: Plan, say: Callable[[str], None]) -> None:
    for line in summary(plan, data.cache, data.held_out):
        say(line)


def summary(plan: Plan, cache: LatentCache | None, held_out: HeldOut | None) -> Iterator[str]:
    """Lines about an epoch of the training, its latent cache, and an evaluation."""
    report = plan.epoch_report()
    batches = ""
    if plan.buckets[0].batch_size is not None:
        met = sum(one.batches > 0 for one in report.buckets)
        batches = f" in {report.batches:,} global batches of {met} buckets; {report.left_over:,} left over"
    yield f"{report.used:,} training clips an epoch{batches}"
    yield from (f"warning: {warning}" for warning in report_warnings(report, bool(batches)))
    if cache is not None:
        yield f"latent cache: {len(cache.store):,} encoded clips in {cache.store.folder}"
    if held_out is not None:
        evaluated = held_out.plan.epoch_report()
        yield f"evaluations of {held_out.samples:,} samples from {evaluated.used:,} held-out clips"
        yield from (f"warning: --valid-data-path: {warning}" for warning in report_warnings(evaluated, False))

"""Everything that a page shows, gathered."""

from collections.abc import Iterable
from typing import Protocol

from vidtron.data.planning.plan import Plan
from vidtron.data.report.cards import Card, cards, sampled_rows
from vidtron.data.report.page import Report
from vidtron.data.report.planned import buckets_of
from vidtron.data.report.statistics import histogram, index_columns, index_statistics, values_of
from vidtron.data.report.tables import ScoreTable
from vidtron.data.shards.index import ShardIndex


class Progress(Protocol):
    """Goes through the cards and tells of it, as tqdm does."""

    def __call__(self, cards: Iterable[Card], *, total: int) -> Iterable[Card]: ...


def _quiet(cards: Iterable[Card], *, total: int) -> Iterable[Card]:
    return cards


def assemble(
    index: ShardIndex,
    *,
    plan: Plan | None = None,
    table: ScoreTable | None = None,
    samples: int = 200,
    seed: int = 0,
    workers: int = 1,
    progress: Progress = _quiet,
) -> Report:
    """The report of an index.

    Args:
        index: the samples.
        plan: what a run would make of them in its first epoch; None: the page does not tell.
        table: further numbers of the clips.
        samples: clips that are shown, at most.
        seed: of the choice of these.
        workers: threads that decode thumbnails.
        progress: told of the cards.
    """
    rows = sampled_rows(index, samples, seed)
    report = Report(
        statistics=index_statistics(index),
        columns=index_columns(index),
        cards=list(progress(cards(index, rows, workers), total=len(rows))),
        values=values_of(index, rows),
        seed=seed,
    )
    if plan is not None:
        report.plan = plan.epoch_report(0)
        report.bucketed = plan.buckets[0].batch_size is not None
        report.buckets = buckets_of(plan, rows)
        report.plan_warnings = [*plan.errors(), *plan.warnings()]
    if table is not None:
        _add_table(report, table)
    unreadable = sum(bool(card.problem) for card in report.cards)
    if unreadable:
        report.notes.append(f"{unreadable} of the {len(rows)} sampled clips cannot be read; their cards say why")
    return report


def _add_table(report: Report, table: ScoreTable) -> None:
    columns = table.columns(taken=[column.name for column in report.columns])
    found = table.values_of([card.key for card in report.cards])
    for column, name in zip(columns, table.names, strict=True):
        report.values[column.name] = [None if row is None else row.get(name) for row in found]
    report.columns = [*report.columns, *columns]
    report.table_histograms = [one for column in columns if (one := histogram(column)) is not None]
    without = sum(row is None for row in found)
    if without:
        report.notes.append(f"{table.path.name} has no row for {without} of the {len(found)} sampled clips")

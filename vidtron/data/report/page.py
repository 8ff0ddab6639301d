"""The report as an HTML page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidtron.data.planning.plan_report import PlanReport
from vidtron.data.report.cards import Card
from vidtron.data.report.html import document
from vidtron.data.report.statistics import Column, Histogram, IndexStatistics

MOST_RESOLUTIONS = 16
"""Resolutions shown one by one; the others are one bar."""
_HERE = Path(__file__).parent


@dataclass
class Report:
    """What the page shows."""

    statistics: IndexStatistics
    columns: Sequence[Column]
    """Columns that clips can be filtered and sorted by."""
    cards: Sequence[Card]
    values: dict[str, Sequence[float | None]]
    """Name of a column -> its number on each card."""
    seed: int
    """Seed of the choice of the sampled clips."""
    plan: PlanReport | None = None
    bucketed: bool = False
    """Whether the plan's buckets have batches."""
    plan_warnings: list[str] = field(default_factory=list)
    buckets: Sequence[str | None] = ()
    """Name of each card's bucket; None: left out. Empty without a plan."""
    table_histograms: Sequence[Histogram] = ()
    notes: list[str] = field(default_factory=list)
    """What should be known, a sentence each."""


def page(report: Report) -> str:
    """HTML of a report. Every text of the dataset is data of the page's script, never markup."""
    parts = {name: (_HERE / name).read_text(encoding="utf-8") for name in ("body.html", "page.css", "page.js")}
    return document(
        "Dataset report",
        parts["body.html"],
        style=parts["page.css"],
        script=parts["page.js"],
        data=content(report),
    )


def content(report: Report) -> dict[str, Any]:
    """The data that the page's script shows, as JSON has it."""
    statistics = report.statistics
    samples = sum(folder.samples for folder in statistics.folders)
    return {
        "samples": samples,
        "seed": report.seed,
        "headline": _headline(statistics, samples),
        "histograms": [_histogram(one) for one in (*statistics.histograms, *report.table_histograms)],
        "bars": [
            {"label": "resolution, width x height", "bars": _resolutions(statistics.resolutions)},
            {"label": "codec", "bars": list(statistics.codecs.items())},
            {"label": "folder", "bars": [(folder.name, folder.samples) for folder in statistics.folders]},
        ],
        "plan": None if report.plan is None else _plan(report.plan, report.bucketed, report.plan_warnings),
        "columns": [{"name": c.name, "label": c.label, "unit": c.unit} for c in report.columns],
        "cards": [_card(report, place) for place in range(len(report.cards))],
        "notes": report.notes,
    }


def _headline(statistics: IndexStatistics, samples: int) -> list[tuple[str, str]]:
    folders = statistics.folders
    figures = [
        ("samples", f"{samples:,}"),
        ("hours", _figure(sum(folder.hours for folder in folders))),
        ("bytes of clips", _bytes(sum(folder.media_bytes for folder in folders))),
        ("shards", f"{sum(folder.shards for folder in folders):,}"),
        ("folders", f"{len(folders):,}"),
        ("codecs", ", ".join(statistics.codecs)),
    ]
    return figures + ([("images", f"{statistics.images:,}")] if statistics.images else [])


def _figure(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _bytes(size: float) -> str:
    unit = "B"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if size >= 1000:
            size, unit = size / 1000, larger
    return f"{_figure(size)} {unit}"


def _histogram(one: Histogram) -> dict[str, Any]:
    names = "name label unit edges counts below above missing minimum maximum mean median whole".split()
    return {name: getattr(one, name) for name in names}


def _resolutions(found: Mapping[tuple[int, int], int]) -> list[tuple[str, int]]:
    pairs = [(f"{width} x {height}", count) for (width, height), count in found.items()]
    rest = pairs[MOST_RESOLUTIONS:]
    return pairs[:MOST_RESOLUTIONS] + ([(f"{len(rest)} others", sum(count for _, count in rest))] if rest else [])


def _plan(plan: PlanReport, bucketed: bool, warnings: list[str]) -> dict[str, Any]:
    return {
        "bucketed": bucketed,
        "epoch": plan.epoch,
        "samples": plan.samples,
        "used": plan.used,
        "batches": plan.batches,
        "buckets": [
            {
                "name": one.bucket.name,
                "size": f"{one.bucket.size.num_frames} x {one.bucket.size.height} x {one.bucket.size.width}",
                "batch": one.bucket.batch_size,
                "samples": one.samples,
                "batches": one.batches,
                "left": one.left_over,
            }
            for one in plan.buckets
        ],
        "warnings": warnings,
    }


def _card(report: Report, place: int) -> dict[str, Any]:
    card = report.cards[place]
    values = [report.values[column.name][place] for column in report.columns]
    return {
        "row": card.row,
        "key": card.key,
        "shard": card.shard,
        "folder": card.folder,
        "codec": card.codec,
        "caption": card.caption,
        "problem": card.problem,
        "bucket": (report.buckets[place] or "left out") if report.buckets else "",
        "thumbnails": card.thumbnails,
        "values": [value if value is not None and math.isfinite(value) else None for value in values],
    }

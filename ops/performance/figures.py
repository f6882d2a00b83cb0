"""What the pages and the written report draw of a performance report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from ops.instrumentation.performance import TIMED_STAGES
from ops.models import QueryPerformance
from ops.performance.report import Figures, Point, Report, stage_split
from ops.plots import Bar, Column, number

BAR_WIDTH = 100.0


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the table with its plots: ``low`` reaches to the median, ``high`` from there to the 95th one."""

    names: tuple[str, ...]
    figures: Figures
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    low: Bar
    high: Bar
    over_time: tuple[Column, ...]


@dataclass(frozen=True, slots=True)
class ReportFigures:
    """A report as tables and plots. ``places`` is how many steps of time a plot has; the scale of all bars is one."""

    report: Report
    lines: tuple[Line, ...]
    longest_ms: float
    places: int


@dataclass(frozen=True, slots=True)
class Part:
    """A stage's share of one query."""

    stage: str
    duration_ms: float
    bar: Bar


@dataclass(frozen=True, slots=True)
class SlowQuery:
    """One of the slowest queries, with what its time was spent on; one scale for all of a list."""

    row: QueryPerformance
    duration_ms: float
    parts: tuple[Part, ...]


def report_figures(report: Report) -> ReportFigures:
    """The plots of a report."""
    places = -(-(report.end - report.start) // report.step)
    longest = max((row.figures.percentile(0.95) or 0.0 for row in report.rows), default=0.0)
    lines = []
    for row in report.rows:
        p50, p95, p99 = (row.figures.percentile(fraction) for fraction in (0.5, 0.95, 0.99))
        low, high = (BAR_WIDTH * (value or 0.0) / longest if longest else 0.0 for value in (p50, p95))
        lines.append(
            Line(
                names=row.key,
                figures=row.figures,
                p50_ms=p50,
                p95_ms=p95,
                p99_ms=p99,
                low=Bar("plain", "0", number(low)),
                high=Bar("emphasis", number(low), number(high - low)),
                over_time=tuple(_over_time(report, row.points)),
            )
        )
    return ReportFigures(report, tuple(lines), longest, places)


def slow_figures(rows: Sequence[QueryPerformance], stage: str) -> list[SlowQuery]:
    """The bars of the slowest queries, each cut into its stages."""
    splits = [stage_split(row) for row in rows]
    longest = max((sum(split.values()) for split in splits), default=0.0)
    found = []
    for row, split in zip(rows, splits, strict=True):
        parts, reached = [], 0.0
        for name, duration_ms in split.items():
            width = BAR_WIDTH * duration_ms / longest if longest else 0.0
            parts.append(Part(name, duration_ms, Bar(f"stage-{name}", number(reached), number(width))))
            reached += width
        found.append(SlowQuery(row, getattr(row, f"{stage}_ms"), tuple(parts)))
    return found


STAGES_DRAWN = (*(name for name in TIMED_STAGES if name != "pipeline"), "other")
"""The stages of a legend, in the order they are drawn."""


def sparkline(report: Report, points: Sequence[Point]) -> str:
    """The 95th percentile of each step of time as one character each; a step without a query is a space."""
    values = p95_by_place(report, points)
    largest = max((value for value in values if value is not None), default=0.0)
    if not largest:
        return ""
    return "".join(" " if value is None else _BLOCKS[min(int(8 * value / largest), 7)] for value in values)


_BLOCKS = "▁▂▃▄▅▆▇█"


def p95_by_place(report: Report, points: Sequence[Point]) -> list[float | None]:
    """The 95th percentile of each step of time from the report's start to its end."""
    values: list[float | None] = [None] * -(-(report.end - report.start) // report.step)
    for point in points:
        values[place_of(report, point.at)] = point.figures.percentile(0.95)
    return values


def place_of(report: Report, at: datetime) -> int:
    """Which step of time a moment lies in."""
    return (at - report.start) // report.step


def _over_time(report: Report, points: Sequence[Point]) -> list[Column]:
    values = p95_by_place(report, points)
    largest = max((value for value in values if value is not None), default=0.0) or 1.0
    return [
        Column("plain", number(place), number(100 - height), number(height), f"{_clock(report, place)}: {value:.1f} ms")
        for place, value in enumerate(values)
        if value is not None
        for height in [100 * value / largest]
    ]


def _clock(report: Report, place: int) -> str:
    return f"{report.start + place * report.step:%d %b %H:%M}"

"""How fast queries were, over a period: counts, errors and percentiles by stage and variant, and the slowest queries.

Figures by stage and variant come from the rolled up views, whatever the period, so that they stay quick with many
millions of rows; those by another column are counted from the rows of the period.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import connection

from ops.contracts.problems import InvalidRequest
from ops.instrumentation.histogram import BUCKETS, percentile
from ops.instrumentation.performance import TIMED_STAGES
from ops.models import QueryPerformance

ROLLED_UP = ("stage", "variant")
"""What figures can be split by at no cost."""

FROM_ROWS = ("cache", "mode", "collection", "status", "key_prefix")
"""What else they can be split by; then the rows of the period are read."""

TOTAL_STAGE = "pipeline"
"""The stage that stands for a whole query."""

MINIMUM = timedelta(minutes=1)
MAXIMUM = timedelta(days=3650)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

_GRAINS = (
    (timedelta(hours=6), "1m", timedelta(minutes=1)),
    (timedelta(days=14), "1h", timedelta(hours=1)),
    (MAXIMUM, "1d", timedelta(days=1)),
)
"""Up to which length of a period which view is read; its buckets are whole, so a period starts at one's edge."""

POINTS = 62
"""Most steps of time of a plot: an hour by minutes, with the two that are cut."""


@dataclass(slots=True)
class Figures:
    """What was counted of one group of queries. ``histogram`` has the buckets of `ops.instrumentation.histogram`."""

    n: int = 0
    errors: int = 0
    histogram: list[int] = field(default_factory=lambda: [0] * BUCKETS)

    def add(self, n: int, errors: int, histogram: Sequence[int]) -> None:
        self.n += n
        self.errors += errors
        self.histogram = [mine + other for mine, other in zip(self.histogram, histogram, strict=True)]

    @property
    def error_rate(self) -> float:
        """The share of errors, from 0 to 1."""
        return self.errors / self.n if self.n else 0.0

    def percentile(self, fraction: float) -> float | None:
        """In milliseconds, within `RELATIVE_ERROR` of the true one; ``None`` without a query."""
        return percentile(self.histogram, fraction)


@dataclass(frozen=True, slots=True)
class Point:
    """The queries that began in one step of time."""

    at: datetime
    figures: Figures


@dataclass(frozen=True, slots=True)
class Row:
    """One group of queries: ``key`` has a value for each column of the report's ``by``."""

    key: tuple[str, ...]
    figures: Figures
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What is known of the queries from ``start`` to ``end``, in steps of ``step``, the groups in a stable order."""

    start: datetime
    end: datetime
    step: timedelta
    by: tuple[str, ...]
    rows: tuple[Row, ...]

    def as_dict(self) -> dict[str, Any]:
        """As JSON; milliseconds, and rates from 0 to 1."""
        return {
            "start": self.start.isoformat(),
            "end": self.end.isoformat(),
            "by": list(self.by),
            "rows": [
                {
                    **dict(zip(self.by, row.key, strict=True)),
                    "n": row.figures.n,
                    "errors": row.figures.errors,
                    "error_rate": round(row.figures.error_rate, 6),
                    **{
                        f"p{round(fraction * 100)}_ms": _rounded(row.figures.percentile(fraction))
                        for fraction in (0.5, 0.95, 0.99)
                    },
                }
                for row in self.rows
            ],
        }


def parse_period(text: str) -> timedelta:
    """A length of time such as ``90s``, ``15m``, ``24h``, ``7d`` or ``2w``. Raises `InvalidRequest`."""
    found = re.fullmatch(r"(\d{1,6})([smhdw])", text.strip().lower())
    period = timedelta(**{_UNITS[found[2]]: int(found[1])}) if found else timedelta()
    if not MINIMUM <= period <= MAXIMUM:
        raise InvalidRequest(f"{text!r} is no period: write a number and a unit, such as 15m, 24h or 7d (1m to 3650d).")
    return period


def parse_by(text: str) -> tuple[str, ...]:
    """Column names with commas between them, such as ``stage,variant``. Raises `InvalidRequest`."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    known = (*ROLLED_UP, *FROM_ROWS)
    if not names or set(names) - set(known):
        raise InvalidRequest(f"{text!r} can't be reported by: choose of {', '.join(known)}, with commas between them.")
    return names


def report(
    since: timedelta,
    by: Sequence[str] = ROLLED_UP,
    *,
    now: datetime,
    stage: str | None = None,
    variant: str | None = None,
    points: int = POINTS,
) -> Report:
    """The figures of the period that ends ``now``, split by the columns ``by``, of one stage or variant if given.

    Without ``stage`` among the columns or given, the figures are those of whole queries (`TOTAL_STAGE`). The period
    starts at the edge of a minute, hour or day before it, by its length; ``points`` is the most steps of time.
    """
    if stage is not None and stage not in TIMED_STAGES:
        raise InvalidRequest(f"There is no stage {stage!r}: choose of {', '.join(TIMED_STAGES)}.")
    if stage is None and "stage" not in by:
        stage = TOTAL_STAGE
    view, width = next((view, width) for longest, view, width in _GRAINS if since <= longest)
    start = _floor(now - since, width)
    step = width * max(1, -(-(now - start) // (width * points)))
    source = _rolled_up(view) if set(by) <= set(ROLLED_UP) else _from_rows(by)
    columns = ", ".join(by)
    statement = f"""
        WITH source AS ({source})
        SELECT date_bin(%(step)s, bucket, %(start)s) AS at, {columns}, sum(n)::bigint, sum(errors)::bigint,
               latency_histogram_sum(histogram)
        FROM source
        WHERE (%(stage)s::text IS NULL OR stage = %(stage)s) AND (%(variant)s::text IS NULL OR variant = %(variant)s)
        GROUP BY at, {columns} ORDER BY at
    """  # noqa: S608  (names of our own columns)
    parameters: dict[str, Any] = {"start": start, "end": now, "step": step, "stage": stage, "variant": variant}
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        found = cursor.fetchall()
    return Report(start, now, step, tuple(by), _grouped(found, by))


def slow(
    since: timedelta, *, now: datetime, limit: int = 20, stage: str = TOTAL_STAGE, variant: str | None = None
) -> list[QueryPerformance]:
    """The slowest queries of the period by one stage, slowest first."""
    if stage not in TIMED_STAGES:
        raise InvalidRequest(f"There is no stage {stage!r}: choose of {', '.join(TIMED_STAGES)}.")
    if not 1 <= limit <= 1000:
        raise InvalidRequest("The number of queries must be from 1 to 1000.")
    column = f"{stage}_ms"
    rows = QueryPerformance.objects.filter(
        occurred_at__gte=now - since, occurred_at__lt=now, **{f"{column}__isnull": False}
    )
    if variant is not None:
        rows = rows.filter(variant=variant)
    return list(rows.order_by(f"-{column}", "-occurred_at")[:limit])


def stage_split(row: QueryPerformance) -> dict[str, float]:
    """What each stage of one query took, in milliseconds and in the order they run; what no stage has is ``other``."""
    split = {name: getattr(row, f"{name}_ms") for name in TIMED_STAGES if name != TOTAL_STAGE}
    known = {name: value for name, value in split.items() if value is not None}
    if row.pipeline_ms is not None:
        within = sum(value for name, value in known.items() if name in _WITHIN_PIPELINE)
        if row.pipeline_ms - within > 0:
            known["other"] = row.pipeline_ms - within
    return known


_WITHIN_PIPELINE = frozenset({"embed", "retrieval", "feature", "ltr", "fusion"})


def _rolled_up(view: str) -> str:
    return f"""
        SELECT bucket, stage, variant, n, errors, histogram FROM query_performance_{view}
        WHERE bucket >= %(start)s AND bucket < %(end)s
    """  # noqa: S608  (a name of ours)


def _from_rows(by: Sequence[str]) -> str:
    """The same columns from the rows themselves, with those of ``by``."""
    more = [name for name in by if name not in ROLLED_UP]
    names = "".join(f", {name}" for name in more)
    texts = "".join(f", coalesce({name}::text, '') AS {name}" for name in more)
    stages = ", ".join(f"('{name}', {name}_ms)" for name in (TIMED_STAGES if "stage" in by else (TOTAL_STAGE,)))
    return f"""
        SELECT bucket, stage, variant{names}, sum(n) AS n, sum(errors) AS errors,
               latency_histogram(latency, n) AS histogram
        FROM (
            SELECT date_bin(%(step)s, occurred_at, %(start)s) AS bucket, stage, variant{texts},
                   latency_bucket(duration_ms) AS latency, count(*) AS n,
                   count(*) FILTER (WHERE status >= 500) AS errors
            FROM query_performance CROSS JOIN LATERAL (VALUES {stages}) AS timed(stage, duration_ms)
            WHERE duration_ms IS NOT NULL AND occurred_at >= %(start)s AND occurred_at < %(end)s
            GROUP BY {", ".join(map(str, range(1, 5 + len(more))))}
        ) AS counted
        GROUP BY bucket, stage, variant{names}
    """  # noqa: S608  (names of ours)


def _grouped(found: Sequence[tuple[Any, ...]], by: Sequence[str]) -> tuple[Row, ...]:
    groups: dict[tuple[str, ...], tuple[Figures, list[Point]]] = {}
    for at, *rest in found:
        key = tuple(map(str, rest[: len(by)]))
        n, errors, histogram = rest[len(by) :]
        whole, points = groups.setdefault(key, (Figures(), []))
        whole.add(n, errors, histogram)
        points.append(Point(at, Figures(n, errors, list(histogram))))
    rows = [Row(key, figures, tuple(points)) for key, (figures, points) in groups.items()]
    return tuple(sorted(rows, key=lambda row: _order(row.key, by)))


def _order(key: tuple[str, ...], by: Sequence[str]) -> tuple[tuple[int, str], ...]:
    """Stages in the order they run, everything else by name."""
    places: Mapping[str, int] = {name: place for place, name in enumerate(TIMED_STAGES)}
    return tuple(
        (places.get(value, len(places)) if name == "stage" else 0, value) for name, value in zip(by, key, strict=True)
    )


def _floor(moment: datetime, width: timedelta) -> datetime:
    """The edge of whole widths since 1970 (UTC) at or before a moment, as the views have them."""
    since_epoch = moment - datetime.fromtimestamp(0, tz=moment.tzinfo)
    return moment - since_epoch % width


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)

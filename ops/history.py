"""What the dashboard draws of the past: queries, errors, cache hits and stage latencies from the performance store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import connection

from ops.contracts.problems import InvalidRequest
from ops.contracts.stage import PIPELINE_STAGES
from ops.instrumentation.performance import VOICE_MODE
from ops.instrumentation.snapshot import CACHE_STATES


@dataclass(frozen=True, slots=True)
class Range:
    """A time range with the width of its points; percentiles come from the view ``query_performance_<suffix>``."""

    name: str
    length: timedelta
    step: timedelta
    suffix: str


RANGES = {
    one.name: one
    for one in (
        Range("15m", timedelta(minutes=15), timedelta(minutes=1), "1m"),
        Range("1h", timedelta(hours=1), timedelta(minutes=1), "1m"),
        Range("6h", timedelta(hours=6), timedelta(minutes=5), "1m"),
        Range("24h", timedelta(hours=24), timedelta(minutes=20), "1m"),
        Range("7d", timedelta(days=7), timedelta(hours=2), "1h"),
        Range("30d", timedelta(days=30), timedelta(hours=12), "1h"),
    )
}
CACHE_FROM_ROWS = timedelta(days=1)
"""Longest range whose cache hits are counted row by row: the roll-up does not keep them apart."""


def history(name: str, now: datetime) -> dict[str, Any]:
    """The range called ``name`` up to ``now``, as columns of equal length. ``at`` are seconds since 1970.

    A point without a query holds 0 counts and ``None`` for latencies. Raises `InvalidRequest` for an unknown name.
    """
    if name not in RANGES:
        raise InvalidRequest(f"The ranges are {', '.join(RANGES)}.", errors={"range": "Choose one of these."})
    chosen = RANGES[name]
    step_s = int(chosen.step.total_seconds())
    last = int(now.timestamp()) // step_s * step_s
    at = list(range(last - int(chosen.length.total_seconds()) + step_s, last + step_s, step_s))
    place = {moment: index for index, moment in enumerate(at)}
    body: dict[str, Any] = {
        "range": name,
        "step_s": step_s,
        "at": at,
        "queries": [0] * len(at),
        "errors": [0] * len(at),
        "cache": {state: [0] * len(at) for state in CACHE_STATES} if chosen.length <= CACHE_FROM_ROWS else None,
        "stages": {},
    }
    for moment, stage, n, errors, p50, p95 in _stages(chosen, at[0]):
        index = place.get(moment)
        if index is None:
            continue
        lines = body["stages"].setdefault(stage, {"p50_ms": [None] * len(at), "p95_ms": [None] * len(at)})
        lines["p50_ms"][index], lines["p95_ms"][index] = _rounded(p50), _rounded(p95)
        if stage == "pipeline":
            body["queries"][index], body["errors"][index] = n, errors
    if body["cache"] is not None:
        for moment, state, n in _caches(chosen, at[0]):
            if moment in place and state in body["cache"]:
                body["cache"][state][place[moment]] = n
    body["stages"] = dict(sorted(body["stages"].items(), key=lambda entry: _order(entry[0])))
    return body


def _stages(chosen: Range, since: int) -> Sequence[tuple[int, str, int, int, float | None, float | None]]:
    parameters: Any = (chosen.step, since)  # psycopg takes an interval
    # The view's name is one of ours.
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT extract(epoch FROM moment)::bigint, stage, n, errors,
                   latency_percentile(histogram, 0.5), latency_percentile(histogram, 0.95)
            FROM (
                SELECT date_bin(%s, bucket, 'epoch') AS moment, stage, sum(n)::bigint AS n,
                       sum(errors)::bigint AS errors, latency_histogram_sum(histogram) AS histogram
                FROM query_performance_{chosen.suffix}
                WHERE bucket >= to_timestamp(%s)
                GROUP BY 1, 2
            ) AS summed
            """,  # noqa: S608
            parameters,
        )
        return list(cursor.fetchall())


def _caches(chosen: Range, since: int) -> Sequence[tuple[int, str, int]]:
    parameters: Any = (chosen.step, since, VOICE_MODE)  # psycopg takes an interval
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT extract(epoch FROM date_bin(%s, occurred_at, 'epoch'))::bigint, cache, count(*)
            FROM query_performance WHERE occurred_at >= to_timestamp(%s) AND mode <> %s GROUP BY 1, 2
            """,
            parameters,
        )
        return list(cursor.fetchall())


def _order(stage: str) -> tuple[int, str]:
    return (PIPELINE_STAGES.index(stage) if stage in PIPELINE_STAGES else len(PIPELINE_STAGES), stage)


def _rounded(duration_ms: float | None) -> float | None:
    return None if duration_ms is None else round(duration_ms, 2)

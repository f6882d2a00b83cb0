"""What ops itself can tell: how queries go, how long work waits, how full the disk is."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection

from ops.contracts.measures import Labels, Measure, register_measure
from ops.instrumentation.histogram import BUCKETS, percentile
from ops.instrumentation.performance import TIMED_STAGES, VOICE_MODE
from ops.performance.report import TOTAL_STAGE
from ops.queues import queues

MINUTE = timedelta(minutes=1)
FEWEST_QUERIES = 5
"""Of fewer queries in a window neither a percentile nor a share says anything."""


def register_measures() -> None:
    register_measure(
        Measure(
            "latency_p95",
            "95th percentile of a stage's time (whole queries without a stage), in ms.",
            "ms",
            read_latency,
            ("stage", "variant"),
            latency_history,
            {"stage": TIMED_STAGES},
        )
    )
    register_measure(
        Measure(
            "cache_hit_rate",
            "Share of queries that a cache answered, from 0 to 1.",
            "ratio",
            lambda labels, at, window: _share("cache <> 'none'", labels, at, window),
            ("variant", "collection"),
            lambda labels, window, start, end, step: _shares("cache <> 'none'", labels, window, start, end, step),
        )
    )
    register_measure(
        Measure(
            "error_rate",
            "Share of queries that ended in a server error, from 0 to 1.",
            "ratio",
            lambda labels, at, window: _share("status >= 500", labels, at, window),
            ("variant", "collection"),
            lambda labels, window, start, end, step: _shares("status >= 500", labels, window, start, end, step),
        )
    )
    register_measure(Measure("queue_age", "Age of the oldest waiting task, in seconds.", "s", read_queue_age))
    register_measure(Measure("disk_used", "Share of the data folder's disk in use, from 0 to 1.", "ratio", read_disk))


def read_latency(labels: Labels, at: datetime, window: timedelta) -> float | None:
    """From the minutes of the window; the minute that has begun counts."""
    counts = [0] * BUCKETS
    for _, histogram in _minutes(labels, at - window, at):
        counts = [mine + other for mine, other in zip(counts, histogram, strict=True)]
    return percentile(counts, 0.95) if sum(counts) >= FEWEST_QUERIES else None


def latency_history(
    labels: Labels, window: timedelta, start: datetime, end: datetime, step: timedelta
) -> list[tuple[datetime, float | None]]:
    """By whole minutes: a window slides over them, so that a day costs one query."""
    arriving = deque(_minutes(labels, start - window, end))
    inside: deque[tuple[datetime, Sequence[int]]] = deque()
    counts = [0] * BUCKETS
    found: list[tuple[datetime, float | None]] = []
    for at in _times(start, end, step):
        while arriving and arriving[0][0] + MINUTE <= at:
            inside.append(arriving.popleft())
            counts = [mine + other for mine, other in zip(counts, inside[-1][1], strict=True)]
        while inside and inside[0][0] < at - window:
            counts = [mine - other for mine, other in zip(counts, inside.popleft()[1], strict=True)]
        found.append((at, percentile(counts, 0.95) if sum(counts) >= FEWEST_QUERIES else None))
    return found


def read_queue_age(labels: Labels, at: datetime, window: timedelta) -> float | None:
    ages = [queue.oldest_s for queue in queues() if queue.oldest_s is not None]
    return max(ages, default=None)


def read_disk(labels: Labels, at: datetime, window: timedelta) -> float:
    usage = shutil.disk_usage(settings.ZENGLOW_DATA_DIR)
    return 1 - usage.free / usage.total


def _minutes(labels: Labels, start: datetime, end: datetime) -> list[tuple[datetime, Sequence[int]]]:
    statement = """
        SELECT bucket, latency_histogram_sum(histogram) FROM query_performance_1m
        WHERE bucket >= %(start)s AND bucket < %(end)s AND stage = %(stage)s
          AND (%(variant)s::text IS NULL OR variant = %(variant)s)
        GROUP BY bucket ORDER BY bucket
    """
    stage, variant = labels.get("stage", TOTAL_STAGE), labels.get("variant")
    parameters: dict[str, Any] = {"start": start, "end": end, "stage": stage, "variant": variant}
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        found: list[tuple[datetime, Sequence[int]]] = cursor.fetchall()
    return found


def _share(condition: str, labels: Labels, at: datetime, window: timedelta) -> float | None:
    counted = _counted(condition, labels, at - window, at, window)
    n, hits = sum(of_all for _, of_all, _ in counted), sum(of_them for _, _, of_them in counted)
    return hits / n if n >= FEWEST_QUERIES else None


def _shares(
    condition: str, labels: Labels, window: timedelta, start: datetime, end: datetime, step: timedelta
) -> list[tuple[datetime, float | None]]:
    arriving = deque(_counted(condition, labels, start - window, end, step))
    inside: deque[tuple[datetime, int, int]] = deque()
    found: list[tuple[datetime, float | None]] = []
    for at in _times(start, end, step):
        while arriving and arriving[0][0] + step <= at:
            inside.append(arriving.popleft())
        while inside and inside[0][0] < at - window:
            inside.popleft()
        n, hits = sum(of_all for _, of_all, _ in inside), sum(of_them for _, _, of_them in inside)
        found.append((at, hits / n if n >= FEWEST_QUERIES else None))
    return found


def _counted(
    condition: str, labels: Labels, start: datetime, end: datetime, step: timedelta
) -> list[tuple[datetime, int, int]]:
    """Queries, and those that meet the condition, in steps from ``start`` on."""
    statement = f"""
        SELECT date_bin(%(step)s, occurred_at, %(start)s), count(*), count(*) FILTER (WHERE {condition})
        FROM query_performance
        WHERE occurred_at >= %(start)s AND occurred_at < %(end)s AND mode <> %(voice)s
          AND (%(variant)s::text IS NULL OR variant = %(variant)s)
          AND (%(collection)s::text IS NULL OR collection = %(collection)s)
        GROUP BY 1 ORDER BY 1
    """  # noqa: S608  (one of the two conditions above)
    parameters: dict[str, Any] = {"start": start, "end": end, "step": step, "voice": VOICE_MODE}
    parameters |= {name: labels.get(name) for name in ("variant", "collection")}
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        found: list[tuple[datetime, int, int]] = cursor.fetchall()
    return found


def _times(start: datetime, end: datetime, step: timedelta) -> Iterator[datetime]:
    at = start
    while at <= end:
        yield at
        at += step

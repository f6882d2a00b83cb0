"""From the rolling statistics in Redis to rows of `ModelStat` that last."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

from django.conf import settings

from models_registry import statistics
from models_registry.models import ModelStat

logger = logging.getLogger(__name__)

_COUNTERS = ("calls", "errors", "items", "tokens", "batches", "batched")


def roll_up() -> int:
    """Write every quarter of an hour that has ended and has no row yet; how many rows that were.

    Safe to run twice and from several processes at once. While Redis is away there is nothing to write; what it still
    holds afterwards, the last day, is written then.
    """
    try:
        names = statistics.subjects("model:")
        by_subject = statistics.slot_tallies(names, statistics.COARSE)
    except statistics.StatisticsUnavailableError:
        logger.warning("Model statistics are not rolled up while Redis does not answer")
        return 0
    rows = []
    for name, by_start in by_subject.items():
        _, kind, label = name.split(":", 2)
        for start, tally in by_start.items():
            rows.append(
                ModelStat(
                    kind=kind,
                    model=label,
                    started_at=datetime.fromtimestamp(start, UTC),
                    seconds=statistics.COARSE.slot_s,
                    buckets={str(bucket): count for bucket, count in sorted(statistics.buckets_of(tally).items())},
                    **{counter: tally[counter] for counter in _COUNTERS},
                )
            )
    if not rows:
        return 0
    since = min(row.started_at for row in rows)
    there = set(ModelStat.objects.filter(started_at__gte=since).values_list("started_at", "kind", "model"))
    fresh = [row for row in rows if (row.started_at, row.kind, row.model) not in there]
    ModelStat.objects.bulk_create(fresh, ignore_conflicts=True)
    return len(fresh)


def purge(now: datetime) -> int:
    """Delete rows older than ``REGISTRY_STATISTICS_RETENTION_DAYS``; how many that were."""
    limit = now - timedelta(days=settings.REGISTRY_STATISTICS_RETENTION_DAYS)
    deleted, _ = ModelStat.objects.filter(started_at__lt=limit).delete()
    return deleted

"""Keeping the performance store in shape: a partition for each coming day, none for days past their retention."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from django.conf import settings
from django.db import connection

DAYS_AHEAD = 7


@dataclass(frozen=True, slots=True)
class Maintenance:
    """How many partitions were made, and the names of those that were dropped."""

    made: int
    dropped: tuple[str, ...]


def maintain_performance_store(now: datetime) -> Maintenance:
    """Make the partitions from yesterday to a week ahead, and drop what is past its retention.

    Days are UTC days; ``OPS_PERFORMANCE_RETENTION_DAYS`` of them are kept. Safe to run at any time, and by several
    processes at once.
    """
    today = now.astimezone(UTC).date()
    made = ensure_partitions(today - timedelta(days=1), today + timedelta(days=DAYS_AHEAD))
    dropped = drop_before(today - timedelta(days=settings.OPS_PERFORMANCE_RETENTION_DAYS))
    return Maintenance(made, dropped)


def ensure_partitions(first_day: date, last_day: date) -> int:
    """One partition for each day; rows that had to wait in the default partition are moved. How many were made."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT query_performance_ensure(%s, %s)", (first_day, last_day))
        row: tuple[int] = cursor.fetchone()
    return row[0]


def drop_before(first_kept: date) -> tuple[str, ...]:
    """Remove every row before ``first_kept``; the names of the partitions that went."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT query_performance_drop_before(%s)", (first_kept,))
        return tuple(name for (name,) in cursor.fetchall())

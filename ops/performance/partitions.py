"""The native partitions of the performance store: one for each day."""

from __future__ import annotations

from datetime import UTC, date, datetime, time

from django.db import connection


def ensure_partitions(first_day: date, last_day: date) -> int:
    """One partition for each day; rows that had to wait in the default partition are moved. How many were made."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT query_performance_ensure(%s, %s)", (first_day, last_day))
        row: tuple[int] = cursor.fetchone()
    return row[0]


def drop_before(first_kept: date) -> tuple[str, ...]:
    """Remove every row before ``first_kept``, and what was rolled up of it; the names of the partitions that went."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT query_performance_drop_before(%s)", (first_kept,))
        dropped = tuple(name for (name,) in cursor.fetchall())
    forget_rolled_up(first_kept)
    return dropped


def forget_rolled_up(first_kept: date) -> None:
    """Remove what was rolled up of the days before ``first_kept``."""
    moment = datetime.combine(first_kept, time(), UTC)
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM query_performance_late WHERE minute < %s", (moment,))
        cursor.execute("DELETE FROM query_performance_rollup WHERE bucket < %s", (moment,))

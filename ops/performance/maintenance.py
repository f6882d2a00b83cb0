"""Keeping the performance store in shape, whatever its layout: room for the coming days, none for outlived ones."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta

from django.conf import settings

from ops.performance.layout import Layout, current_layout, drop_chunks_before, keep_retention
from ops.performance.partitions import drop_before, ensure_partitions, forget_rolled_up
from ops.performance.rollup import roll_up

DAYS_AHEAD = 7


@dataclass(frozen=True, slots=True)
class Maintenance:
    """How many partitions were made, and the names of those (or of the chunks) that were dropped."""

    made: int
    dropped: tuple[str, ...]


def maintain(now: datetime) -> Maintenance:
    """Make the partitions from yesterday to a week ahead, and drop what is past its retention, rolled up or not.

    Days are UTC days; ``OPS_PERFORMANCE_RETENTION_DAYS`` of them are kept. Safe to run at any time, and by several
    processes at once. Where TimescaleDB has jobs for that, they are only told how much to keep.
    """
    today = now.astimezone(UTC).date()
    first_kept = today - timedelta(days=settings.OPS_PERFORMANCE_RETENTION_DAYS)
    match current_layout():
        case Layout.PARTITIONS:
            made = ensure_partitions(today - timedelta(days=1), today + timedelta(days=DAYS_AHEAD))
            return Maintenance(made, drop_before(first_kept))
        case Layout.HYPERTABLE:
            dropped = drop_chunks_before(datetime.combine(first_kept, time(), UTC))
            forget_rolled_up(first_kept)
            return Maintenance(0, dropped)
        case Layout.CONTINUOUS:
            keep_retention()
            return Maintenance(0, ())


def bring_up_to_date(now: datetime) -> datetime | None:
    """Roll up what is new, where the database does not do it by itself; up to when everything is rolled up then."""
    return None if current_layout().rolls_up_itself else roll_up(now)

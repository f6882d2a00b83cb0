"""The store's own roll-up, where TimescaleDB's continuous aggregates don't do it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.db import connection, transaction

SETTLING = timedelta(minutes=1)
"""Minutes are rolled up this long after they are over: rows come in batches, and each that comes later costs more."""

STEP = timedelta(days=1)
"""Most time that one transaction rolls up."""


def roll_up(now: datetime) -> datetime:
    """Bring the rolled up histograms up to a minute before ``now``; the time before which everything is in them.

    Safe to run at any time and by several processes at once; what was missed is made good.
    """
    upto = now - SETTLING
    with transaction.atomic():
        _call("SELECT query_performance_close(%s)", upto)
    while True:
        with transaction.atomic():
            watermark: datetime = _call("SELECT query_performance_roll_up(%s, %s)", upto, STEP)
        if watermark >= upto.replace(second=0, microsecond=0):
            return watermark


def _call(statement: str, *parameters: Any) -> datetime:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        row: tuple[datetime] = cursor.fetchone()
    return row[0]

"""One time for all hosts, whose clocks may disagree: the database's."""

from __future__ import annotations

from datetime import datetime

from django.db import connection


def now() -> datetime:
    """The time at which the database answers, also within a transaction."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        moment: datetime = cursor.fetchone()[0]
    return moment

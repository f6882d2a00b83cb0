"""Work that takes workers minutes: one worker at a time has it, and another takes it over when that one dies.

A row of some table stands for the work and notes when it last ``progressed_at``. Its queued message may be lost with a
broker, and come twice: whoever holds the row's lock in the database works, others leave it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from celery import Task
from django.db import Error, connection, transaction
from django.db.models import QuerySet
from kombu.exceptions import OperationalError as BrokerError

logger = logging.getLogger(__name__)

STALLED_AFTER = timedelta(seconds=60)
"""Work without progress for so long has lost its worker, or waits behind others: it is queued once more."""


@contextmanager
def claimed(name: str) -> Iterator[bool]:
    """Whether this session now holds the lock called ``name``; it does until the block ends, or its process does."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", [name])
        is_ours = bool(cursor.fetchone()[0])
    try:
        yield is_ours
    finally:
        if is_ours:
            try:
                with connection.cursor() as cursor:
                    cursor.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", [name])
            except Error:
                logger.warning("The lock '%s' could not be released; the database does it", name)


def queue(task: Task[..., Any], number: int | None = None, in_s: float = 0.0) -> None:
    """Have a worker go on with the work, of that number. Without a broker it waits for the task that looks for such."""
    try:
        task.apply_async(() if number is None else (number,), countdown=in_s)
    except BrokerError as error:
        logger.warning("The task queue can't be reached; %s waits for it (%s)", task.name, error)


def take_stalled(working: QuerySet[Any], now: datetime, stalled_after: timedelta) -> list[int]:
    """Those of ``working`` without progress for so long, each at most once in that time."""
    with transaction.atomic():
        stalled = working.select_for_update(skip_locked=True).filter(progressed_at__lte=now - stalled_after)
        numbers = list(stalled.order_by("id").values_list("id", flat=True))
        working.model._default_manager.filter(id__in=numbers).update(progressed_at=now)
    return numbers

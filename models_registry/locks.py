"""Named locks of the database: they order writers over all processes and hosts, and a crash releases them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from django.db import connection


def lock_until_commit(name: str) -> None:
    """Wait for the lock called ``name`` and hold it to the end of the current transaction, which must exist."""
    if not connection.in_atomic_block:
        raise RuntimeError("lock_until_commit needs a transaction: outside one, the lock would be released at once")
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [name])


@contextmanager
def session_lock(name: str, *, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock called ``name`` for a block that may span many transactions.

    ``on_wait`` is called once when somebody else holds the lock.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", [name])
        if not cursor.fetchone()[0]:
            on_wait()
            cursor.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [name])
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", [name])

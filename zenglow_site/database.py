"""How Django reaches PostgreSQL: its address, and connections that don't wait for ever on a server that is silent.

A server that is gone is noticed at once; one that hangs (a frozen machine, a dead disk) keeps its sockets open, and a
request would hang with it. The web server therefore bounds each wait; see `DATABASE_ANSWER_TIMEOUT_S`.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, ClassVar, TypeVar

import psycopg
from django.db import DatabaseError, OperationalError
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import Row

Result = TypeVar("Result")

CANCEL_TIMEOUT_S = 1.0
POLL_INTERVAL_S = 0.1


def database_parameters(url: str) -> dict[str, Any]:
    """Entries of Django's DATABASES for a URL as libpq reads it, socket folders and options included.

    Raises `ValueError` for anything else, and for a URL without a database or a host.
    """
    try:
        found = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        found = {}
    names = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST", "port": "PORT"}
    if not url.startswith(("postgres://", "postgresql://")) or not (found.get("dbname") and found.get("host")):
        raise ValueError("must be a URL such as postgres://user:password@host:5432/name")
    return {
        **{ours: found.pop(theirs, "") for theirs, ours in names.items()},
        "OPTIONS": found,
    }


def explained(error: DatabaseError) -> str | None:
    """What an operator should hear of a fault of the database; ``None`` for a fault of ours."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if isinstance(error, OperationalError):
        return f"The database can't be used: {reason}"
    if isinstance(error.__cause__, psycopg.errors.InsufficientPrivilege) and "extension" in reason:
        return f"{reason}. As a superuser of PostgreSQL, run in this database: CREATE EXTENSION vector;"
    if isinstance(error.__cause__, psycopg.errors.UndefinedTable):
        return f"{reason}. Prepare this database first: run manage.py migrate (or make run)."
    return None


class BoundedConnection(psycopg.Connection[Row]):
    """A connection that gives up, with an `OperationalError`, when an answer takes longer than the process allows."""

    answer_timeout_s: ClassVar[float | None] = None
    """For all connections of this process; ``None`` waits for as long as it takes."""

    def wait(self, gen: PQGen[Result], interval: float = POLL_INTERVAL_S, timeout: float | None = None) -> Result:
        if timeout is not None or self.answer_timeout_s is None:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, self.answer_timeout_s)
        except psycopg.errors._WaitTimeout:
            with suppress(psycopg.Error):
                self.cancel_safe(timeout=CANCEL_TIMEOUT_S)
            # Whatever comes back now would be taken for the answer to the next statement.
            self.pgconn.finish()
            raise psycopg.OperationalError(f"PostgreSQL has not answered within {self.answer_timeout_s:g} s") from None

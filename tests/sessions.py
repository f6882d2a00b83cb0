"""Sessions of the tests' database that outlive the test which opened them."""

from __future__ import annotations

from django.db import connection


def end_other_sessions() -> None:
    """End those of ended tests' threads: PostgreSQL neither copies nor drops a database that others have open."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity
            WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()
            """
        )

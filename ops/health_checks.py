"""What ops itself depends on: PostgreSQL, its schema, Redis, the task queue with its workers, the disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import psycopg
from celery import current_app
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.migrations.loader import MigrationLoader
from django_redis import get_redis_connection

from ops.contracts.health import Report, State, register_health_check

DISK_DEGRADED_BYTES = 2 * 1024**3
DISK_FAILED_BYTES = 200 * 1024**2
EXTENSIONS = ("vector", "timescaledb")
WORKER_PATIENCE_S = 0.5


def register_health_checks() -> None:
    register_health_check("postgresql", check_postgresql, critical=True)
    register_health_check("migrations", check_migrations, critical=True)
    register_health_check("redis", check_redis, critical=False)
    register_health_check("workers", check_workers, critical=False)
    register_health_check("disk", check_disk, critical=False)


def check_postgresql() -> Report:
    """Connects, and names the versions of the server and of the extensions that matter."""
    with _direct_connection() as connection:
        version = connection.execute("SHOW server_version").fetchone()
        found = dict(
            connection.execute(
                "SELECT extname, extversion FROM pg_extension WHERE extname = ANY(%s)", (list(EXTENSIONS),)
            ).fetchall()
        )
    if "vector" not in found:
        return Report(State.FAILED, "pgvector is missing. Run manage.py migrate as a role that may add it.")
    extensions = ", ".join(f"{name} {found[name]}" for name in EXTENSIONS if name in found)
    return Report(State.OK, f"PostgreSQL {version[0].split()[0] if version else '?'}, {extensions}")


def check_migrations() -> Report:
    """Whether the database has every migration that the code has."""
    with _direct_connection() as connection:
        applied = {
            (app, name) for app, name in connection.execute("SELECT app, name FROM django_migrations").fetchall()
        }
    missing = sorted(_migrations_on_disk() - applied)
    if missing:
        return Report(State.FAILED, f"{len(missing)} not applied, first {'.'.join(missing[0])}. Run manage.py migrate.")
    return Report(State.OK)


def check_redis() -> Report:
    """Redis is a cache: without it everything works, slower."""
    get_redis_connection("default").ping()
    return Report(State.OK)


def check_workers() -> Report:
    """Whether the broker passes a message on and at least one worker answers it."""
    if current_app.control.ping(timeout=WORKER_PATIENCE_S, limit=1):
        return Report(State.OK)
    return Report(State.DEGRADED, "No worker answers, so that indexing waits. Start one, or see its log.")


def check_disk() -> Report:
    """The space left where data and originals are kept."""
    usage = shutil.disk_usage(settings.ZENGLOW_DATA_DIR)
    detail = f"{usage.free / 1024**3:.1f} GiB of {usage.total / 1024**3:.1f} GiB free"
    if usage.free < DISK_FAILED_BYTES:
        return Report(State.FAILED, f"{detail}. Nothing more can be stored.")
    if usage.free < DISK_DEGRADED_BYTES:
        return Report(State.DEGRADED, f"{detail}. Make room soon.")
    return Report(State.OK, detail)


@contextmanager
def _direct_connection() -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """A connection besides the pool: it fails at once where the pool would wait for a free one."""
    parameters = connections[DEFAULT_DB_ALIAS].get_connection_params()
    for ours in ("cursor_factory", "context", "prepare_threshold"):
        parameters.pop(ours, None)
    with psycopg.connect(**parameters, autocommit=True) as connection:
        yield connection


@cache
def _migrations_on_disk() -> frozenset[tuple[str, str]]:
    return frozenset(MigrationLoader(None).disk_migrations or ())

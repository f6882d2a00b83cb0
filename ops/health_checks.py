"""What ops itself depends on: PostgreSQL, its schema, Redis, the task queue with its workers, the disk."""

from __future__ import annotations

import logging
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import psutil
import psycopg
import redis
from celery import current_app
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.migrations.loader import MigrationLoader
from django_redis import get_redis_connection

from ops.contracts.health import Report, State, register_health_check, signs_of_life
from ops.queues import queues

logger = logging.getLogger(__name__)

DISK_DEGRADED_BYTES = 2 * 1024**3
DISK_FAILED_BYTES = 200 * 1024**2
EXTENSIONS = ("vector", "timescaledb")
PGVECTOR_AT_LEAST = (0, 8)
"""The first with iterative scans, without which a filter under an index may let nothing through."""

WORKER_PATIENCE_S = 0.5
POSTGRESQL_AWAY = "PostgreSQL can't be reached"
AWAY = "Is it running, and do its address and password hold?"


def register_health_checks() -> None:
    register_health_check("postgresql", check_postgresql, critical=True)
    register_health_check("migrations", check_migrations, critical=True)
    register_health_check("redis", check_redis, critical=False)
    register_health_check("broker", check_broker, critical=False)
    register_health_check("workers", check_workers, critical=False)
    register_health_check("disk", check_disk, critical=False)


def check_postgresql() -> Report:
    """Connects, and names the versions of the server and of the extensions that matter."""
    try:
        with _direct_connection() as connection:
            version = connection.execute("SHOW server_version").fetchone()
            found = dict(
                connection.execute(
                    "SELECT extname, extversion FROM pg_extension WHERE extname = ANY(%s)", (list(EXTENSIONS),)
                ).fetchall()
            )
    except psycopg.OperationalError as error:
        return Report(State.FAILED, f"{POSTGRESQL_AWAY} ({type(error).__name__}). {AWAY}")
    if "vector" not in found:
        return Report(State.FAILED, "pgvector is missing. Run manage.py migrate as a role that may add it.")
    extensions = ", ".join(f"{name} {found[name]}" for name in EXTENSIONS if name in found)
    if tuple(int(part) for part in found["vector"].split(".")[:2]) < PGVECTOR_AT_LEAST:
        return Report(State.DEGRADED, f"{extensions}: pgvector 0.8 or newer is needed. ALTER EXTENSION vector UPDATE.")
    return Report(State.OK, f"PostgreSQL {version[0].split()[0] if version else '?'}, {extensions}")


def is_away(answer: Report) -> bool:
    """Whether an answer of `check_postgresql` says that nobody is there, and not that something is amiss with it."""
    return answer.state is State.FAILED and answer.detail.startswith(POSTGRESQL_AWAY)


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
    try:
        version = get_redis_connection("default").info("server")["redis_version"]
    except redis.RedisError as error:
        return Report(State.FAILED, f"Redis can't be reached ({type(error).__name__}): nothing is cached. {AWAY}")
    return Report(State.OK, f"Redis {version}")


def check_broker() -> Report:
    """Whether the queues can be read, and how much waits in them."""
    try:
        found = queues()
    except Exception as error:  # of kombu, of the broker's client, or of the socket
        return Report(State.FAILED, f"The broker can't be reached ({type(error).__name__}): no work is taken. {AWAY}")
    oldest_s = max((queue.oldest_s or 0.0 for queue in found), default=0.0)
    depth = sum(queue.depth for queue in found)
    return Report(State.OK, f"{depth} waiting, the oldest for {oldest_s:.0f} s" if depth else "Nothing waits.")


def check_workers() -> Report:
    """Whether a worker is there: it answers a message, or gave a sign of life lately.

    One that has all processors busy, or works in the very process that would answer, is late with its answer.
    """
    if (broker := check_broker()).state is not State.OK:
        return broker
    if current_app.control.ping(timeout=WORKER_PATIENCE_S, limit=1):
        return Report(State.OK, "A worker answers.")
    if busy := workers_alive():
        return Report(State.OK, f"No answer within {WORKER_PATIENCE_S:g} s, but at work: {', '.join(busy)}")
    return Report(State.DEGRADED, "No worker answers, so that indexing waits. Start one, or see its log.")


def workers_alive() -> list[str]:
    """Worker processes, ``host:pid``, that gave a sign of life lately and, on this host, still exist. Sorted."""
    try:
        names = signs_of_life()
    except redis.RedisError as error:
        logger.debug("No sign of life can be read (%s)", type(error).__name__)
        return []
    return sorted(name for name in names if not _has_ended(name))


def _has_ended(name: str) -> bool:
    """Whether a process of this host is gone: what it wrote outlives it by some seconds."""
    host, _, pid = name.rpartition(":")
    return host == socket.gethostname() and not psutil.pid_exists(int(pid))


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

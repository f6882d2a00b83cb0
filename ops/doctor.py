"""The first diagnosis of an operator, made by itself: what `manage.py doctor` looks at, of ops' own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta

import psutil
from django.conf import settings
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from django.db.models import Avg
from django.utils import timezone
from django_redis import get_redis_connection

from ops.backup.service import CREATE_BACKUP
from ops.contracts.diagnosis import Finding, Level, diagnoses, register_diagnosis
from ops.contracts.health import State
from ops.gpu import gpus
from ops.health_checks import DISK_DEGRADED_BYTES, check_migrations, check_postgresql, check_workers, is_away
from ops.models import AlertEvent, ApiKey, AuditEvent, QueryPerformance
from ops.performance.report import TOTAL_STAGE, Report, report

SLOW_MS = 1000.0
ERROR_SHARE = 0.02
FEWEST_QUERIES = 20
CACHE_DROP = 0.5
MANY_RESULTS = 50
BUSY = 0.9
LONG_QUERY = timedelta(minutes=5)
KEY_SURGE = 10
KEY_SURGE_QUERIES = 500
GIB = 1024**3


def register_diagnoses() -> None:
    for name, ask, asks_database in (
        ("postgresql", look_at_postgresql, False),
        ("migrations", look_at_migrations, True),
        ("redis", look_at_redis, False),
        ("workers", look_at_workers, False),
        ("disk", look_at_disk, False),
        ("backups", look_at_backups, True),
        ("machine", look_at_machine, False),
        ("latency", look_at_latency, True),
        ("keys", look_at_keys, True),
        ("alerts", look_at_alerts, True),
    ):
        register_diagnosis(name, ask, asks_database=asks_database)


def examine() -> Iterator[tuple[str, Finding]]:
    """Every finding of every diagnosis. One that fails is a finding itself, and the others go on.

    What asks the database is left out while that is away: each would wait for it, and say the same.
    """
    every = diagnoses()
    left_out = {name for name, one in every.items() if one.asks_database} if is_away(check_postgresql()) else set()
    for name, one in every.items():
        if name in left_out:
            continue
        try:
            yield from ((name, finding) for finding in list(one.ask()))
        except Exception as error:
            yield name, Finding(Level.TROUBLE, f"Can't be looked at: {type(error).__name__}.", start_stores())
    if left_out:
        names = ", ".join(name for name in every if name in left_out)
        yield "the rest", Finding(Level.NOTE, f"Not looked at while PostgreSQL is away: {names}.")


def start_stores() -> str:
    """The command that leads on when a store is away: an embedded one is started, another one's address looked at."""
    return "manage.py stack start" if settings.ZENGLOW_EMBEDDED else "manage.py config show"


def look_at_postgresql() -> Iterator[Finding]:
    """Answers and takes writes, has connections left, no query that never ends, indexes that are valid."""
    answer = check_postgresql()
    if answer.state is not State.OK:
        yield Finding(Level.TROUBLE, answer.detail, start_stores() if is_away(answer) else "manage.py migrate")
        return
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
                      current_setting('max_connections')::int, pg_database_size(current_database()),
                      (SELECT max(now() - xact_start) FROM pg_stat_activity
                       WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()),
                      (SELECT sum(blks_hit)::float8 / nullif(sum(blks_hit + blks_read), 0)
                       FROM pg_stat_database WHERE datname = current_database()),
                      current_setting('transaction_read_only')::bool"""
        )
        used, most, size, longest, hits, is_read_only = cursor.fetchone()
        cursor.execute("SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid ORDER BY 1")
        invalid = [name for (name,) in cursor.fetchall()]
    share = "" if hits is None else f", {hits:.1%} of pages from memory"
    yield Finding(Level.OK, f"{used} of {most} connections, {size / GIB:.2f} GiB{share}.")
    if is_read_only:
        # A standby, or what managed databases do when their disk is nearly full.
        yield Finding(
            Level.TROUBLE,
            f"PostgreSQL takes no writes: it is read-only, with {size / GIB:.2f} GiB.",
            "manage.py perf status",
        )
    if used > BUSY * most:
        yield Finding(Level.TROUBLE, f"{used} of {most} connections are taken.", "manage.py config show")
    if longest is not None and longest > LONG_QUERY:
        yield Finding(
            Level.TROUBLE, f"A transaction has been open for {longest.total_seconds():.0f} s.", "manage.py dbshell"
        )
    if invalid:
        yield Finding(Level.TROUBLE, f"{len(invalid)} indexes are not valid, first {invalid[0]}.", "manage.py ann list")


def look_at_migrations() -> Iterator[Finding]:
    answer = check_migrations()
    if answer.state is not State.OK:
        yield Finding(Level.TROUBLE, answer.detail, "manage.py migrate")


def look_at_redis() -> Iterator[Finding]:
    """Answers, and has room."""
    try:
        memory = get_redis_connection("default").info("memory")
    except Exception as error:  # the client's errors and the socket's
        yield Finding(Level.TROUBLE, f"Redis does not answer: {type(error).__name__}.", start_stores())
        return
    used, most = memory["used_memory"], memory["maxmemory"]
    yield Finding(Level.OK, f"Redis answers, {used / 1024**2:.0f} MiB in use.")
    if most and used > BUSY * most:
        yield Finding(Level.NOTE, f"{used / most:.0%} of Redis's memory is in use.", "manage.py config show")


def look_at_workers() -> Iterator[Finding]:
    answer = check_workers()
    if answer.state is State.OK:
        yield Finding(Level.OK, "A worker answers.")
    else:
        yield Finding(Level.TROUBLE, answer.detail, "manage.py serve")


def look_at_disk() -> Iterator[Finding]:
    usage = shutil.disk_usage(settings.ZENGLOW_DATA_DIR)
    what = f"{usage.free / GIB:.1f} GiB of {usage.total / GIB:.1f} GiB are free."
    if usage.free < DISK_DEGRADED_BYTES or usage.free < 0.05 * usage.total:
        yield Finding(Level.TROUBLE, what, "manage.py perf status")
    else:
        yield Finding(Level.OK, what)


def look_at_backups() -> Iterator[Finding]:
    """Whether the last one is young enough. Who has other backups sets `OPS_BACKUP_MAX_AGE_DAYS` to 0."""
    if not settings.OPS_BACKUP_MAX_AGE_DAYS:
        return
    longest, now = timedelta(days=settings.OPS_BACKUP_MAX_AGE_DAYS), timezone.now()
    command = "manage.py backup create zenglow.backup"
    last = AuditEvent.objects.filter(action=CREATE_BACKUP).order_by("-occurred_at").first()
    if last is not None:
        age = now - last.occurred_at
        what = f"The last backup, {last.target}, is {age.days} days old"
        if age > longest:
            yield Finding(Level.TROUBLE, f"{what}; at most {longest.days} are meant to pass.", command)
        else:
            yield Finding(Level.OK, f"{what}.")
        return
    first_migration = MigrationRecorder.Migration.objects.order_by("applied").values_list("applied", flat=True).first()
    age = now - (first_migration or now)
    what = f"No backup was ever made, in {age.days} days."
    yield Finding(Level.TROUBLE if age > longest else Level.NOTE, what, command)


def look_at_machine() -> Iterator[Finding]:
    """Processors and memory, and those of GPUs, over the last minutes."""
    load, cores, memory = os.getloadavg()[1], os.cpu_count() or 1, psutil.virtual_memory()
    what = f"Load {load:.1f} on {cores} processors, {memory.percent:.0f} % of memory in use."
    if load > 2 * cores or memory.percent > 100 * BUSY:
        yield Finding(Level.NOTE, what, "manage.py perf report --since 1h")
    else:
        yield Finding(Level.OK, what)
    for gpu in gpus():
        memory_share = gpu.memory_used_bytes / gpu.memory_total_bytes
        busy = "" if gpu.percent is None else f" {gpu.percent:.0f} % busy,"
        what = f"GPU {gpu.index} ({gpu.name}):{busy} {memory_share:.0%} of its memory in use."
        is_full = memory_share > BUSY or (gpu.percent or 0) > 100 * BUSY
        yield Finding(Level.NOTE, what, "manage.py perf report --since 1h") if is_full else Finding(Level.OK, what)


def look_at_latency() -> Iterator[Finding]:
    """The last hour: how slow, which stage, how many from a cache, how many failed."""
    now, hour = timezone.now(), timedelta(hours=1)
    by_cache = report(hour, ["cache"], now=now)
    n = sum(row.figures.n for row in by_cache.rows)
    if n < FEWEST_QUERIES:
        yield Finding(Level.OK, f"{n} queries in the last hour: too few to judge.")
        return
    errors = sum(row.figures.errors for row in by_cache.rows)
    shares = ", ".join(f"{row.key[0]} {row.figures.n / n:.0%}" for row in by_cache.rows)
    stages = {row.key[0]: row.figures.percentile(0.95) or 0.0 for row in report(hour, ["stage"], now=now).rows}
    p95 = stages.pop(TOTAL_STAGE, 0.0)
    slowest = max(stages, key=lambda name: stages[name], default="")
    which = f", of which {slowest} {stages[slowest]:.0f} ms" if slowest else ""
    what = f"p95 is {p95:.0f} ms{which}; from caches: {shares} ({n:,} queries in the last hour)."
    if p95 > SLOW_MS:
        yield Finding(Level.TROUBLE, what, "manage.py perf slow --since 1h")
    else:
        yield Finding(Level.OK, what)
    if errors > ERROR_SHARE * n:
        yield Finding(
            Level.TROUBLE, f"{errors / n:.1%} of the queries failed.", "manage.py perf report --since 1h --by status"
        )
    yield from _fewer_hits(_hit_share(by_cache), now)
    asked = (
        QueryPerformance.objects.filter(occurred_at__gte=now - hour).aggregate(mean=Avg("result_count"))["mean"] or 0
    )
    if asked > MANY_RESULTS:
        what = f"A query returns {asked:.0f} results on average, RAG_TOP_K_DEFAULT is {settings.RAG_TOP_K_DEFAULT}."
        yield Finding(Level.NOTE, what, "manage.py config show")


def _fewer_hits(share: float, now: datetime) -> Iterator[Finding]:
    """When caches answer far less than they did in the day before."""
    day_before = report(timedelta(days=1), ["cache"], now=now - timedelta(hours=1))
    if sum(row.figures.n for row in day_before.rows) < FEWEST_QUERIES:
        return
    usual = _hit_share(day_before)
    if share < CACHE_DROP * usual:
        what = f"Caches answered {share:.0%} of the last hour's queries, {usual:.0%} of those of the day before."
        yield Finding(Level.NOTE, what, "manage.py perf report --since 24h --by cache")


def _hit_share(by_cache: Report) -> float:
    n = sum(row.figures.n for row in by_cache.rows)
    return sum(row.figures.n for row in by_cache.rows if row.key[0] in {"full", "feature"}) / n if n else 0.0


def look_at_keys() -> Iterator[Finding]:
    """A key that is suddenly used far more than before may be in other hands."""
    now = timezone.now()
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT key_prefix, count(*) FILTER (WHERE occurred_at >= %(hour)s) AS last_hour,
                      count(*) FILTER (WHERE occurred_at < %(hour)s) / 167.0 AS usual
               FROM query_performance
               WHERE key_prefix IS NOT NULL AND occurred_at >= %(week)s GROUP BY key_prefix""",
            {"hour": now - timedelta(hours=1), "week": now - timedelta(days=7)},
        )
        used = cursor.fetchall()
    for prefix, last_hour, usual in used:
        if last_hour > KEY_SURGE_QUERIES and last_hour > KEY_SURGE * usual:
            yield Finding(
                Level.TROUBLE,
                f"The key zg_{prefix} asked {last_hour:,} times in the last hour, {usual:.0f} an hour before.",
                f"manage.py apikey revoke {prefix}",
            )
    endless = ApiKey.objects.filter(scopes__contains=["admin"], expires_at=None, revoked_at=None)
    if count := endless.count():
        yield Finding(Level.NOTE, f"{count} keys may do everything and never expire.", "manage.py apikey list")


def look_at_alerts() -> Iterator[Finding]:
    events = AlertEvent.objects.filter(resolved_at=None)
    for event in events.filter(acknowledged_at=None)[:10]:
        level = Level.NOTE if event.severity == "info" else Level.TROUBLE
        yield Finding(level, f"{event.name}: {event.message}", f"manage.py alerts ack {event.name}")
    if not events.exists():
        yield Finding(Level.OK, "No alert is open.")

"""How the performance store is laid out, and moving it from one layout to another.

==============  ===================================  ==========================================
layout          ``query_performance`` is             the views read
==============  ===================================  ==========================================
``PARTITIONS``  native range partitions, a day each  the roll-up of `ops.performance.rollup`
``HYPERTABLE``  TimescaleDB chunks, a day each       the same: its Apache edition has no more
``CONTINUOUS``  the same, compressed after a week    TimescaleDB's continuous aggregates
==============  ===================================  ==========================================

Columns and views are the same in all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from enum import StrEnum
from typing import Any

from django.conf import settings
from django.db import connection, transaction

from ops.contracts.problems import Conflict, Unprocessable
from ops.performance import layout_sql
from ops.performance.partitions import ensure_partitions

FORMER = "query_performance_old"
"""What the table is called while its rows move into the new one."""


class Layout(StrEnum):
    PARTITIONS = "partitions"
    HYPERTABLE = "hypertable"
    CONTINUOUS = "continuous"

    @property
    def rolls_up_itself(self) -> bool:
        """Whether the database keeps the views up to date without us."""
        return self is Layout.CONTINUOUS


@dataclass(frozen=True, slots=True)
class Timescale:
    """What the server has of TimescaleDB. ``edition`` is ``timescale`` or ``apache``, empty before it is installed."""

    version: str
    is_loaded: bool
    is_installed: bool
    edition: str

    @property
    def layout(self) -> Layout:
        """The layout that this edition allows."""
        return Layout.CONTINUOUS if self.edition == "timescale" else Layout.HYPERTABLE


@dataclass(frozen=True, slots=True)
class Plan:
    """A conversion. ``moves`` rows (an estimate) wait in the former table, or will."""

    layout: Layout
    target: Layout
    moves: int
    size_bytes: int
    is_resumed: bool

    @property
    def is_done(self) -> bool:
        return self.layout is self.target and not self.is_resumed


@dataclass(frozen=True, slots=True)
class Status:
    """How the store is. ``rolled_up`` is when the own roll-up has reached; ``None`` where the database does that."""

    layout: Layout
    rows: int
    size_bytes: int
    oldest: datetime | None
    rolled_up: datetime | None
    timescale: Timescale
    is_converting: bool


def current_layout() -> Layout:
    """The layout in force."""
    if _scalar("SELECT relkind = 'p' FROM pg_class WHERE oid = 'query_performance'::regclass"):
        return Layout.PARTITIONS
    return Layout.CONTINUOUS if _exists("query_performance_minutes") else Layout.HYPERTABLE


def timescale() -> Timescale:
    """Whether this server has TimescaleDB, and which edition this database gets."""
    version = _scalar("SELECT default_version FROM pg_available_extensions WHERE name = 'timescaledb'")
    is_loaded = _scalar("SELECT current_setting('timescaledb.max_background_workers', true)") is not None
    is_installed = bool(_scalar("SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'"))
    edition = _scalar("SELECT current_setting('timescaledb.license', true)") if is_installed else None
    return Timescale(version or "", is_loaded, is_installed, edition or "")


def status() -> Status:
    """Everything that is known of the store. Counts its rows, which takes a while with millions of them."""
    layout = current_layout()
    rows, size = _count_and_size("query_performance")
    watermark = "SELECT CASE WHEN isfinite(watermark) THEN watermark END FROM query_performance_rolled"
    return Status(
        layout=layout,
        rows=rows,
        size_bytes=size,
        oldest=_scalar("SELECT min(occurred_at) FROM query_performance"),
        rolled_up=None if layout.rolls_up_itself else _scalar(watermark),
        timescale=timescale(),
        is_converting=_exists(FORMER),
    )


def plan(target: str) -> Plan:
    """What converting to ``partitions`` or ``hypertable`` would do. Raises `Unprocessable` where that can't be."""
    layout, is_resumed = current_layout(), _exists(FORMER)
    found = timescale()
    if target == Layout.PARTITIONS:
        wanted = Layout.PARTITIONS
    elif not found.version:
        raise Unprocessable("This PostgreSQL has no TimescaleDB. Install its extension on the server, then try again.")
    elif not found.is_loaded:
        raise Unprocessable(
            "TimescaleDB is there but not loaded. Add it to shared_preload_libraries and restart PostgreSQL."
        )
    else:
        # Before it is installed nobody can ask for its edition; the one with everything is the default.
        wanted = found.layout if found.is_installed else Layout.CONTINUOUS
    moving = FORMER if is_resumed else "query_performance"
    rows, size = _count_and_size(moving)
    return Plan(layout, wanted, rows, size, is_resumed)


def convert(target: str, on_day: Callable[[datetime, int], None] = lambda day, rows: None) -> Layout:
    """Bring the store into the layout ``partitions`` or ``hypertable``; the layout it then has.

    The tables change places in one short transaction, and new rows go into the new one from then on. Then the older
    rows move day by day, each day in a transaction: what is stopped goes on where it was when it is called again. Until
    it is done the views show what has moved. ``on_day(day, rows)`` hears of each.

    Raises `Conflict` while another conversion runs, `Unprocessable` where the server lacks what it takes.
    """
    with _alone():
        wanted = plan(target)
        if wanted.is_resumed:
            _move(on_day)
        if wanted.layout is wanted.target:
            return wanted.layout
        if wanted.target is not Layout.PARTITIONS:
            _run("CREATE EXTENSION IF NOT EXISTS timescaledb")
        goal = Layout.PARTITIONS if wanted.target is Layout.PARTITIONS else timescale().layout
        with transaction.atomic():
            _exchange(wanted.layout, goal)
        _move(on_day)
    return goal


def adopt() -> Layout | None:
    """Take up TimescaleDB where it is installed in the database and nothing was recorded yet; the new layout, if so.

    A store with rows is only converted when somebody asks: that takes time.
    """
    if current_layout() is not Layout.PARTITIONS or not timescale().is_installed or not timescale().is_loaded:
        return None
    if _scalar("SELECT EXISTS (SELECT FROM query_performance)") or _exists(FORMER):
        return None
    return convert(Layout.HYPERTABLE)


def keep_retention() -> None:
    """Have TimescaleDB's own jobs follow ``OPS_PERFORMANCE_RETENTION_DAYS``."""
    days = timedelta(days=settings.OPS_PERFORMANCE_RETENTION_DAYS)
    kept = _scalar(
        "SELECT min((config->>'drop_after')::interval) FROM timescaledb_information.jobs "
        "WHERE proc_name = 'policy_retention' AND hypertable_name = 'query_performance'"
    )
    if kept == days:
        return
    with transaction.atomic():
        for table in ("query_performance", *layout_sql.AGGREGATES):
            _run("SELECT remove_retention_policy(%s, if_exists => true)", table)
            _run("SELECT add_retention_policy(%s, drop_after => %s)", table, days)


def drop_chunks_before(first_kept: datetime) -> tuple[str, ...]:
    """Remove whole chunks of a hypertable that lie before a moment; their names."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT drop_chunks('query_performance', older_than => %s)", [first_kept])
        return tuple(name for (name,) in cursor.fetchall())


def _exchange(layout: Layout, goal: Layout) -> None:
    """Put an empty table of the new layout in the old one's place. In the caller's transaction."""
    _run("SELECT pg_advisory_xact_lock(hashtext('query_performance'))")
    _run("LOCK TABLE query_performance IN ACCESS EXCLUSIVE MODE")
    for statement in layout_sql.SET_ASIDE:
        _run(statement)
    if layout is Layout.PARTITIONS:
        for statement in _all(layout_sql.RENAME_PARTITIONS):
            _run(statement)
    _run(layout_sql.create_table(is_partitioned=goal is Layout.PARTITIONS))
    _run(layout_sql.CONTINUE_IDS)
    if goal is Layout.PARTITIONS:
        _run("CREATE TABLE query_performance_default PARTITION OF query_performance DEFAULT")
        today = datetime.now(UTC).date()
        ensure_partitions(today - timedelta(days=1), today + timedelta(days=7))
    else:
        _run("SELECT create_hypertable('query_performance', by_range('occurred_at', INTERVAL '1 day'))")
    _run("CREATE INDEX query_performance_request ON query_performance (request_id)")
    _run("TRUNCATE query_performance_rollup, query_performance_late")
    _run("UPDATE query_performance_rolled SET watermark = '-infinity', horizon = '-infinity'")
    for view in reversed(layout_sql.VIEWS):
        _run(f"DROP VIEW {view}")
    for aggregate in reversed(layout_sql.AGGREGATES) if layout is Layout.CONTINUOUS else ():
        _run(f"DROP MATERIALIZED VIEW {aggregate}")
    statements = layout_sql.continuous_aggregates() if goal is Layout.CONTINUOUS else layout_sql.own_roll_up()
    for statement in statements:
        _run(statement)


def _move(on_day: Callable[[datetime, int], None]) -> None:
    """Move what waits in the former table, then drop it and bring the views up to date."""
    layout = current_layout()
    first: datetime | None
    while first := _scalar(f"SELECT min(occurred_at) FROM {FORMER}"):  # noqa: S608
        day = datetime.combine(first.astimezone(UTC).date(), time(), UTC)
        if layout is Layout.PARTITIONS:
            ensure_partitions(day.date(), day.date())
        with transaction.atomic():
            rows = _run(layout_sql.MOVE, day, day + timedelta(days=1))
        on_day(day, rows)
    _run(f"DROP TABLE {FORMER}")
    if layout.rolls_up_itself:
        for aggregate in layout_sql.AGGREGATES:
            _run(f"CALL refresh_continuous_aggregate('{aggregate}', NULL, NULL)")
        # Only now: a job of theirs would have met the refresh, which then fails.
        for statement in layout_sql.policies():
            _run(statement)
        keep_retention()


@contextmanager
def _alone() -> Iterator[None]:
    """One conversion at a time; the lock goes with the connection."""
    if not _scalar("SELECT pg_try_advisory_lock(hashtext('query_performance_convert'))"):
        raise Conflict("Another conversion is running. Wait for it to end.")
    try:
        yield
    finally:
        _scalar("SELECT pg_advisory_unlock(hashtext('query_performance_convert'))")


def _count_and_size(table: str) -> tuple[int, int]:
    """Rows, counted, and bytes of a table with its parts."""
    rows: int = _scalar(f"SELECT count(*) FROM {table}")  # noqa: S608
    if _scalar("SELECT relkind = 'p' FROM pg_class WHERE oid = %s::regclass", table):
        return rows, _scalar("SELECT coalesce(sum(pg_total_relation_size(relid)), 0) FROM pg_partition_tree(%s)", table)
    return rows, _scalar("SELECT hypertable_size(%s)", table)


def _exists(relation: str) -> bool:
    return bool(_scalar("SELECT to_regclass(%s) IS NOT NULL", relation))


def _run(statement: str, *parameters: Any) -> int:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters or None)
        changed: int = cursor.rowcount
    return changed


def _scalar(statement: str, *parameters: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters or None)
        row = cursor.fetchone()
    return row[0] if row else None


def _all(statement: str) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return [text for (text,) in cursor.fetchall()]

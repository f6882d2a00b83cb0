# ruff: noqa: S608  (every name in here is one of ours)
"""The statements of the layouts. The plain one is as the migrations make it, and is taken from them."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

from ops.instrumentation.performance import TIMED_STAGES

VIEWS = ("query_performance_1m", "query_performance_1h", "query_performance_1d")

AGGREGATES = ("query_performance_minutes", "query_performance_hours", "query_performance_days")
"""TimescaleDB's continuous aggregates behind the views: a column for each figure of each stage."""

COMPRESSED_AFTER = "7 days"

SET_ASIDE = (
    "ALTER TABLE query_performance RENAME TO query_performance_old",
    "ALTER INDEX query_performance_pkey RENAME TO query_performance_old_pkey",
    "ALTER INDEX query_performance_request RENAME TO query_performance_old_request",
    "ALTER SEQUENCE query_performance_id_seq RENAME TO query_performance_old_id_seq",
)

# The partitions' names are wanted again. Their indexes may keep theirs: PostgreSQL finds others.
RENAME_PARTITIONS = """
    SELECT format('ALTER TABLE %I RENAME TO %I', relname,
                  replace(relname, 'query_performance_', 'query_performance_old_'))
    FROM pg_inherits JOIN pg_class ON oid = inhrelid WHERE inhparent = 'query_performance_old'::regclass
"""

CONTINUE_IDS = """
    SELECT setval('query_performance_id_seq', last_value, is_called) FROM query_performance_old_id_seq
"""

MOVE = """
    WITH moved AS (
        DELETE FROM query_performance_old WHERE occurred_at >= %s AND occurred_at < %s RETURNING *
    ) INSERT INTO query_performance SELECT * FROM moved
"""


def create_table(*, is_partitioned: bool) -> str:
    """The empty table, with the columns of the one that was set aside."""
    return (
        "CREATE TABLE query_performance ("
        "LIKE query_performance_old INCLUDING DEFAULTS INCLUDING IDENTITY, PRIMARY KEY (occurred_at, id))"
        + (" PARTITION BY RANGE (occurred_at)" if is_partitioned else "")
    )


def own_roll_up() -> Iterator[str]:
    """The trigger and the views of `ops.performance.rollup`."""
    migration = import_module("ops.migrations.0003_performance_rollup")
    yield migration.TRIGGER
    yield from migration.VIEWS


def continuous_aggregates() -> Iterator[str]:
    """TimescaleDB's own roll-up: an aggregate each for minutes, hours and days, with the views on them; compression."""
    minutes, hours, days = AGGREGATES
    yield _aggregate(minutes, "1 minute", "occurred_at", "query_performance", _counted)
    yield _aggregate(hours, "1 hour", "bucket", minutes, _added_up)
    yield _aggregate(days, "1 day", "bucket", hours, _added_up)
    for view, aggregate in zip(VIEWS, AGGREGATES, strict=True):
        yield _view(view, aggregate)
    yield (
        "ALTER TABLE query_performance SET (timescaledb.compress, timescaledb.compress_segmentby = 'variant', "
        "timescaledb.compress_orderby = 'occurred_at DESC, id DESC')"
    )


def policies() -> Iterator[str]:
    """The jobs that keep the aggregates up to date and compress old chunks."""
    for aggregate, start, end, every in zip(
        AGGREGATES,
        ("3 days", "4 days", "7 days"),
        ("1 minute", "1 hour", "1 day"),
        ("1 minute", "10 minutes", "1 hour"),
        strict=True,
    ):
        yield (
            f"SELECT add_continuous_aggregate_policy('{aggregate}', start_offset => INTERVAL '{start}', "
            f"end_offset => INTERVAL '{end}', schedule_interval => INTERVAL '{every}', if_not_exists => true)"
        )
    yield f"SELECT add_compression_policy('query_performance', INTERVAL '{COMPRESSED_AFTER}', if_not_exists => true)"


def _aggregate(name: str, width: str, moment: str, source: str, columns: object) -> str:
    figures = ", ".join(columns(stage) for stage in TIMED_STAGES)  # type: ignore[operator]
    return (
        f"CREATE MATERIALIZED VIEW {name} WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS "
        f"SELECT time_bucket(INTERVAL '{width}', {moment}) AS bucket, variant, {figures} "
        f"FROM {source} GROUP BY 1, 2 WITH NO DATA"
    )


def _counted(stage: str) -> str:
    # TimescaleDB's histogram() is written in C. Its first and last element are what lies outside: nothing does.
    return (
        f"count({stage}_ms) AS {stage}_n, count({stage}_ms) FILTER (WHERE status >= 500) AS {stage}_errors, "
        f"(histogram(latency_bucket({stage}_ms) - 0.5, 0, 150, 150) FILTER (WHERE {stage}_ms IS NOT NULL))"
        f"[2:151]::bigint[] AS {stage}_histogram"
    )


def _added_up(stage: str) -> str:
    histogram = f"{stage}_histogram"
    return (
        f"sum({stage}_n)::bigint AS {stage}_n, sum({stage}_errors)::bigint AS {stage}_errors, "
        f"latency_histogram_sum({histogram}) FILTER (WHERE {histogram} IS NOT NULL) AS {histogram}"
    )


def _view(name: str, aggregate: str) -> str:
    stages = ", ".join(f"('{stage}', {stage}_n, {stage}_errors, {stage}_histogram)" for stage in TIMED_STAGES)
    return (
        f"CREATE VIEW {name} AS SELECT bucket, variant, stage, n, errors, histogram FROM {aggregate} "
        f"CROSS JOIN LATERAL (VALUES {stages}) AS figures(stage, n, errors, histogram) WHERE n > 0"
    )

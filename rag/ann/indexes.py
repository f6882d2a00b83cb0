"""The vector indexes of the database: build, drop, size, progress, and what a dead builder left.

Outside of a transaction an index is built and dropped ``CONCURRENTLY``: no search and no write waits for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from django.conf import settings
from django.db import OperationalError, connection
from psycopg import sql
from psycopg.errors import DiskFull

from rag.models import AnnConfig, AnnStrategy
from rag.pipeline.ann import indexed_expression, operator_class, predicate

PREFIX = "rag_ann_"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far PostgreSQL is with an index: its phase, and the share of the current phase's work that is done."""

    phase: str
    share: float | None


def name_of(config: AnnConfig) -> str:
    return f"{PREFIX}{config.pk}"


def lock_name(index_name: str) -> str:
    """The session lock that whoever builds an index holds: with the builder it is gone, whatever it died of."""
    return f"ann-build:{index_name}"


def create(config: AnnConfig) -> None:
    """Build a row's index. A failure leaves an invalid one, for `drop`. Raises a database error.

    A parallel build asks for shared memory that a container may not have; it is then made again without helpers.
    """
    with connection.cursor() as cursor:
        memory_mb = settings.RAG_ANN_BUILD_MEMORY_MB
        if memory_mb:
            cursor.execute("SELECT set_config('maintenance_work_mem', %s, false)", [f"{memory_mb}MB"])
        try:
            try:
                cursor.execute(_statement(config))
            except OperationalError as error:
                if not isinstance(error.__cause__, DiskFull) or connection.in_atomic_block:
                    raise
                drop(config.index_name)
                cursor.execute("SET max_parallel_maintenance_workers = 0")
                cursor.execute(_statement(config))
        finally:
            if not connection.in_atomic_block:
                cursor.execute("RESET maintenance_work_mem")
                cursor.execute("RESET max_parallel_maintenance_workers")


def drop(index_name: str) -> None:
    """Drop an index if it is there; searches that use it finish first."""
    with connection.cursor() as cursor:
        cursor.execute(
            sql.SQL("DROP INDEX {concurrently} IF EXISTS {name}").format(
                concurrently=_concurrently(), name=sql.Identifier(index_name)
            )
        )


def size_bytes(index_name: str) -> int | None:
    """Bytes of a complete index on disk; None where there is none, or only an invalid one."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT pg_relation_size(index.indexrelid) FROM pg_index AS index
            WHERE index.indexrelid = to_regclass(quote_ident(%s)) AND index.indisvalid AND index.indisready
            """,
            [index_name],
        )
        row = cursor.fetchone()
    return int(row[0]) if row else None


def progress(index_name: str) -> Progress | None:
    """How far a build is; None when none is under way."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT phase, tuples_done, tuples_total, blocks_done, blocks_total
            FROM pg_stat_progress_create_index WHERE index_relid = to_regclass(quote_ident(%s)) AND index_relid <> 0
            """,
            [index_name],
        )
        row = cursor.fetchone()
    if row is None:
        return None
    phase, tuples_done, tuples_total, blocks_done, blocks_total = row
    if tuples_total:
        return Progress(phase, tuples_done / tuples_total)
    return Progress(phase, blocks_done / blocks_total if blocks_total else None)


def is_being_built(index_name: str) -> bool:
    """Whether some process holds the builder's lock."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT EXISTS (
                SELECT FROM pg_locks, (SELECT hashtextextended(%s, 0) AS key)
                WHERE locktype = 'advisory' AND granted AND objsubid = 1
                  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                  AND ((classid::bigint << 32) | objid::bigint) = key
            )
            """,
            [lock_name(index_name)],
        )
        return bool(cursor.fetchone()[0])


def existing() -> list[str]:
    """The names of all vector indexes in the database, complete or not."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT class.relname FROM pg_index AS index JOIN pg_class AS class ON class.oid = index.indexrelid
            WHERE index.indrelid = 'doc_embeddings'::regclass AND starts_with(class.relname, %s) ORDER BY 1
            """,
            [PREFIX],
        )
        return [row[0] for row in cursor.fetchall()]


def lists_for(vectors: int) -> int:
    """IVFFlat's cells where nobody said how many: as many as each then holds vectors."""
    return max(1, round(math.sqrt(vectors)))


def _statement(config: AnnConfig) -> sql.Composed:
    dimension = config.space.dimension
    if config.strategy == AnnStrategy.HNSW:
        options = f"m = {config.m:d}, ef_construction = {config.ef_construction:d}"
    else:
        options = f"lists = {config.lists or lists_for(config.vectors):d}"
    return sql.SQL(
        "CREATE INDEX {concurrently} {name} ON doc_embeddings "
        "USING {method} (({expression}) {operators}) WITH ({options}) WHERE {rows}"
    ).format(
        concurrently=_concurrently(),
        name=sql.Identifier(config.index_name),
        method=sql.SQL(AnnStrategy(config.strategy).value),
        expression=sql.SQL(indexed_expression(config.precision, dimension)),
        operators=sql.SQL(operator_class(config.precision)),
        options=sql.SQL(options),
        rows=sql.SQL(predicate(config.collection_id, config.space_id, config.marker)),
    )


def _concurrently() -> sql.SQL:
    return sql.SQL("" if connection.in_atomic_block else "CONCURRENTLY")

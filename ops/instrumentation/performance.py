"""The performance store: one row of ``query_performance`` for each query, written in batches by COPY."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import cache
from time import perf_counter
from typing import Any, NamedTuple
from uuid import UUID

from django.conf import settings
from django.db import connection

from ops.instrumentation.batch import BatchWriter
from ops.instrumentation.prometheus import count_query
from ops.instrumentation.snapshot import SNAPSHOT

TIMED_STAGES = ("embed", "retrieval", "feature", "ltr", "fusion", "pipeline", "generation", "stt", "tts")
"""The stages with a column ``<stage>_ms`` of their own."""

VOICE_MODE = "voice"
"""The ``mode`` of a row that only adds the times of speech to the row of a search with the same request id. It is no
query of its own: whoever counts queries leaves it out."""


class PerformanceRow(NamedTuple):
    """How one query went. No text: ``query_hmac`` is its keyed hash in hexadecimal digits.

    ``status`` is the HTTP status that the query had or would have had; from 500 on it counts as an error.
    ``timings_ms`` maps ``<stage>_ms`` to milliseconds; stages that did not run are left out. ``key_prefix`` is the
    public part of the API key, if one was used.
    """

    occurred_at: datetime
    request_id: UUID | str
    query_hmac: str
    collection: str
    variant: str
    mode: str
    cache: str
    status: int
    timings_ms: Mapping[str, float]
    degraded: Sequence[str] = ()
    result_count: int = 0
    top_score: float | None = None
    weights_version: int | None = None
    ltr_version: str | None = None
    embedder_version: str | None = None
    key_prefix: str | None = None


def record_query(row: PerformanceRow) -> None:
    """Count a query in every sink and keep its row for the next batch. Never waits for the database."""
    SNAPSHOT.add_query(row.cache, failed=row.status >= 500)
    count_query(row.cache, row.mode, row.variant, row.status)
    _hand_on(row, _unfinished.get())


class Unfinished:
    """Rows of queries that go on when the search is over, such as by an answer that is written from what was found.

    They are written when `finish` is called; at the latest when nobody holds this any more, so that a caller that is
    gone loses no row.
    """

    def __init__(self, around: Unfinished | None) -> None:
        self._around = around
        self._rows: list[PerformanceRow] = []

    def finish(self, timings_ms: Mapping[str, float]) -> None:
        """Have the rows written, with these timings added. Again: does nothing."""
        rows, self._rows = self._rows, []
        for row in rows:
            _hand_on(row._replace(timings_ms={**row.timings_ms, **timings_ms}), self._around)

    @contextmanager
    def finishing(self, stage: str) -> Iterator[None]:
        """The last stage: when the block ends, however it does, the rows are written with its time."""
        started = perf_counter()
        try:
            yield
        finally:
            self.finish({f"{stage}_ms": round((perf_counter() - started) * 1000, 3)})

    def __del__(self) -> None:
        self.finish({})


@contextmanager
def unfinished() -> Iterator[Unfinished]:
    """Rows that are recorded in the block wait for more timings. An exception ends the wait."""
    held = Unfinished(_unfinished.get())
    token = _unfinished.set(held)
    try:
        yield held
    except BaseException:
        held.finish({})
        raise
    finally:
        _unfinished.reset(token)


_unfinished: ContextVar[Unfinished | None] = ContextVar("unfinished", default=None)


def _hand_on(row: PerformanceRow, around: Unfinished | None) -> None:
    if around is None:
        performance_writer().add(row)
    else:
        around._rows.append(row)


@cache
def performance_writer() -> BatchWriter[PerformanceRow]:
    """This process's writer of ``query_performance``."""
    return BatchWriter(
        "query_performance",
        _copy,
        interval_ms=settings.OPS_PERFORMANCE_FLUSH_INTERVAL_MS,
        capacity=settings.OPS_PERFORMANCE_BUFFER_ROWS,
    )


_TIMINGS = tuple(f"{stage}_ms" for stage in TIMED_STAGES)
_COLUMNS = (
    *("occurred_at", "request_id", "query_hmac", "collection", "variant", "mode", "cache", "status", "degraded"),
    *("result_count", "top_score", *_TIMINGS),
    *("weights_version", "ltr_version", "embedder_version", "key_prefix"),
)
_COPY = f"COPY query_performance ({', '.join(_COLUMNS)}) FROM STDIN"


def _copy(rows: Sequence[PerformanceRow]) -> None:
    with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
        for row in rows:
            copy.write_row(_values(row))


def _values(row: PerformanceRow) -> tuple[Any, ...]:
    return (
        row.occurred_at,
        str(row.request_id),
        row.query_hmac,
        row.collection,
        row.variant,
        row.mode,
        row.cache,
        row.status,
        list(row.degraded),
        row.result_count,
        row.top_score,
        *(row.timings_ms.get(name) for name in _TIMINGS),
        row.weights_version,
        row.ltr_version,
        row.embedder_version,
        row.key_prefix,
    )

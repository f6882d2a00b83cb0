"""The query log: what was asked, and which passages were shown at which place. Feedback refers to it.

Only a keyed hash of the text identifies a query in logs, traces and the performance store. Of a search the text itself
is kept here, as ``RAG_QUERY_LOG`` says: ``scrubbed`` of personal data, ``clear``, or with no row at all (``off``).
Where else people's words are kept, `rag.erasure` knows.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache, lru_cache
from typing import Any, NamedTuple
from uuid import UUID

from django.conf import settings
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.utils import timezone

from models_registry.routing import Arm
from ops.contracts.facts import note
from ops.contracts.principal import Principal, PrincipalKind
from ops.instrumentation.batch import BatchWriter
from ops.instrumentation.performance import PerformanceRow, record_query
from ops.scrub import scrub
from rag.models import QueryLog
from rag.pipeline.body import Body, Shown
from rag.pipeline.query import SearchRequest
from rag.pipeline.snapshot import PipelineSnapshot, Resolved

logger = logging.getLogger(__name__)

BUFFER_SEARCHES = 2_000
"""A search with 10 impressions takes about 4 kB here."""

_ROWS_PER_DELETE = 5_000


def query_hmac(query: str) -> str:
    """The keyed hash by which a query is known outside of the query log: 64 hexadecimal digits."""
    keyed = _keyed().copy()
    keyed.update(query.encode())
    return keyed.hexdigest()


def record_search(answer: Mapping[str, Any], body: Body, resolved: Resolved, principal: Principal) -> None:
    """Note a search in the performance store and, unless it is off, in the query log. Never waits for the database.

    ``answer`` is all that surrounds the results in ``body``.
    """
    now = timezone.now()
    snapshot = resolved.snapshot
    digest = query_hmac(answer["query"])
    timings = {name: duration_ms for name, duration_ms in answer["timings"].items() if duration_ms}
    note(
        query_hmac=digest,
        collection=snapshot.collection,
        variant=answer["variant"],
        cache=answer["cache"],
        retrieval_mode=snapshot.retrieval_mode,
        degraded=answer["degraded"],
        timings=timings,
    )
    record_query(
        PerformanceRow(
            occurred_at=now,
            request_id=answer["request_id"],
            query_hmac=digest,
            collection=snapshot.collection,
            variant=answer["variant"],
            mode=snapshot.retrieval_mode,
            cache=answer["cache"],
            status=200,
            degraded=answer["degraded"],
            result_count=len(body.shown),
            top_score=body.top_score,
            timings_ms=timings,
            weights_version=snapshot.weights_version,
            ltr_version=snapshot.ranker_label,
            embedder_version=snapshot.space.label,
            key_prefix=_key_prefix(principal),
        )
    )
    if settings.RAG_QUERY_LOG == "off":
        return
    _writer().add(
        _Logged(
            request_id=answer["request_id"],
            occurred_at=now,
            query=answer["query"],
            query_hmac=digest,
            principal=principal,
            resolved=resolved,
            degraded=answer["degraded"],
            shown=body.shown,
        )
    )


def record_failure(
    request: SearchRequest,
    request_id: str,
    timings_ms: Mapping[str, float],
    principal: Principal,
    status: int,
    variant: str,
) -> None:
    """Note in the performance store a search that ended in an error; nothing when the error is the caller's.

    ``timings_ms``: stage to milliseconds, of the stages that ran.
    """
    digest = query_hmac(request.query)
    note(query_hmac=digest, collection=request.collection or "", variant=variant, timings=_named(timings_ms))
    if status < 500:
        return
    record_query(
        PerformanceRow(
            occurred_at=timezone.now(),
            request_id=request_id,
            query_hmac=digest,
            collection=request.collection or "",
            variant=variant,
            mode=settings.RAG_RETRIEVAL_MODE,
            cache="none",
            status=status,
            timings_ms=_named(timings_ms),
            key_prefix=_key_prefix(principal),
        )
    )


def _named(timings_ms: Mapping[str, float]) -> dict[str, float]:
    return {f"{name}_ms": round(duration_ms, 3) for name, duration_ms in timings_ms.items()}


def purge(now: datetime) -> int:
    """Delete what is older than ``RAG_QUERY_LOG_RETENTION_DAYS``; how many searches that were."""
    limit = now - timedelta(days=settings.RAG_QUERY_LOG_RETENTION_DAYS)
    purged = 0
    while True:
        old = list(QueryLog.objects.filter(occurred_at__lt=limit).values_list("pk", flat=True)[:_ROWS_PER_DELETE])
        if not old:
            return purged
        QueryLog.objects.filter(pk__in=old).delete()
        purged += len(old)


def flush() -> None:
    """Write what this process has not written yet, on this thread's connection."""
    _writer().flush()


def _key_prefix(principal: Principal) -> str | None:
    return principal.name if principal.kind is PrincipalKind.API_KEY else None


class _Logged(NamedTuple):
    """A search on its way into the log. Rows are made of it when they are written: that is work off the request."""

    request_id: str
    occurred_at: datetime
    query: str
    query_hmac: str
    principal: Principal
    resolved: Resolved
    degraded: list[str]
    shown: Sequence[Shown]

    def row(self) -> tuple[Any, ...]:
        """In the order of the columns of `_COPY_SEARCHES`, behind the first."""
        resolved = self.resolved
        return (
            self.occurred_at,
            resolved.snapshot.collection,
            scrub(self.query) if settings.RAG_QUERY_LOG == "scrubbed" else self.query,
            self.query_hmac,
            self.principal.log_name,
            self.principal.user_id,
            _described(resolved.snapshot, resolved.variant, resolved.arms),
            len(self.shown),
            self.degraded,
        )


@lru_cache(maxsize=256)
def _described(snapshot: PipelineSnapshot, variant: str, arms: tuple[Arm, ...]) -> str:
    """What decided an answer, as JSON. Few snapshots answer many searches."""
    return json.dumps(snapshot.as_dict() | {"variant": variant, "arms": [arm.as_json() for arm in arms]})


_COPY_SEARCHES = """
    COPY rag_querylog (request_id, occurred_at, collection, query, query_hmac, asked_by, user_id, snapshot,
                       result_count, degraded)
    FROM STDIN
"""
_COPY_IMPRESSIONS = """
    COPY rag_impression (query_log_id, position, chunk_id, document_id, content_hash, start, "end", fused_score)
    FROM STDIN
"""


def _write(rows: Sequence[_Logged]) -> None:
    with transaction.atomic():
        # A batch comes again when the connection broke after its commit, and users may have gone meanwhile.
        asked = {UUID(one.request_id): one for one in rows}
        written = set(QueryLog.objects.filter(pk__in=asked).values_list("pk", flat=True))
        users: set[int | None] = {None}
        if named := {one.principal.user_id for one in rows if one.principal.user_id is not None}:
            users.update(User.objects.filter(pk__in=named).values_list("pk", flat=True))
        fresh = {key: one for key, one in asked.items() if key not in written and one.principal.user_id in users}
        # Rows of the ORM took ten times as long to make, while requests waited for the interpreter.
        with connection.cursor() as cursor:
            with cursor.copy(_COPY_SEARCHES) as copy:
                for key, one in fresh.items():
                    copy.write_row((key, *one.row()))
            with cursor.copy(_COPY_IMPRESSIONS) as copy:
                for key, one in fresh.items():
                    for shown in _impressions(one):
                        copy.write_row((key, *shown))


def _impressions(one: _Logged) -> Sequence[Shown]:
    """What was shown; nothing where the cache's entry is damaged, which must not cost the others of a batch theirs."""
    try:
        return list(one.shown)
    except Exception as error:  # msgpack and what is made of its values raise many
        logger.warning("What a search showed can't be read from its cached answer: %s", type(error).__name__)
        return []


@cache
def _writer() -> BatchWriter[_Logged]:
    return BatchWriter(
        "rag_querylog",
        _write,
        interval_ms=settings.OPS_PERFORMANCE_FLUSH_INTERVAL_MS,
        capacity=BUFFER_SEARCHES,
    )


@cache
def _keyed() -> hmac.HMAC:
    """To be copied for each query."""
    key = hmac.new(settings.SECRET_KEY.encode(), b"zenglow.query_hmac", hashlib.sha256).digest()
    return hmac.new(key, digestmod=hashlib.sha256)

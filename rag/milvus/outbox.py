"""The transactional outbox: which documents' copies in Milvus are behind.

A row is written in the transaction that changes a document, so none is lost and none tells of a change that was rolled
back. It names the document and not the change: whoever works it off copies the document as it is then, so that working
off twice, late or out of order gives the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from django.conf import settings
from django.db import connection

from ops.contracts.metrics import Samples, declare_scraped

MODE = "milvus"

NO_DOCUMENT = 0
"""Stands for the collection itself, when it is deleted or leaves a space."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits: rows, and the age of the oldest in seconds (0 when nothing waits)."""

    rows: int
    oldest_s: float


def note(collection_id: int, document_row_ids: Iterable[int]) -> None:
    """Note in the open transaction that these documents changed or went; does nothing in the other modes."""
    if settings.RAG_RETRIEVAL_MODE != MODE:
        return
    ids = sorted(set(document_row_ids))
    if ids:
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO rag_milvusoutbox (collection_id, document_row_id, noted_at) "
                "SELECT %s, document, clock_timestamp() FROM unnest(%s::bigint[]) AS document",
                (collection_id, ids),
            )


def backlog() -> Backlog:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - min(noted_at)), 0)::float8 "
            "FROM rag_milvusoutbox"
        )
        rows, oldest_s = cursor.fetchone()
    return Backlog(rows, max(oldest_s, 0.0))


def export_metrics() -> None:
    """Let each scrape ask. Without the database the figures are left out: unknown, not zero."""

    def figure(name: str) -> Samples:
        try:
            return [((), float(getattr(backlog(), name)))]
        finally:
            if not connection.in_atomic_block:
                connection.close()

    declare_scraped(
        "zenglow_milvus_waiting", "Document changes that Milvus has not been told of.", lambda: figure("rows")
    )
    declare_scraped(
        "zenglow_milvus_lag_seconds", "How long the oldest of them has been waiting.", lambda: figure("oldest_s")
    )

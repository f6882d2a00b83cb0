"""Both legs inside Milvus, on the copy of the chunks that `rag.milvus.feed` keeps."""

from __future__ import annotations

from typing import Any

import numpy as np

from ops.contracts.health import Report, State
from rag.milvus import outbox
from rag.milvus.labels import expression
from rag.milvus.store import MilvusSettings, MilvusStore, is_missing, is_unconnected
from rag.pipeline.bm25 import inverse_document_frequency
from rag.pipeline.database import HotCursor
from rag.pipeline.eligible import Eligibility
from rag.pipeline.remote.guard import CircuitBreaker, Guard
from rag.pipeline.remote.recheck import still_eligible
from rag.pipeline.retrieval import RetrievalError
from rag.pipeline.snapshot import PipelineSnapshot
from rag.pipeline.types import Float32Array, Int64Array, QueryTerms

LAG_DEGRADED_S = 60.0

NOTHING: Int64Array = np.empty(0, dtype=np.int64)

_DEFAULT_GROUPS = "SELECT default_access_groups FROM rag_collection WHERE id = %(collection_id)s"

_WAITS = "SELECT EXISTS (SELECT 1 FROM rag_milvusoutbox WHERE collection_id = %(collection_id)s)"

_HAS_VECTORS = """
    SELECT EXISTS (SELECT 1 FROM doc_embeddings WHERE collection_id = %(collection_id)s AND space_id = %(space_id)s)
"""


class Milvus:
    """The mode ``milvus``. Safe to use from several threads at once."""

    def __init__(self, settings: MilvusSettings, pause_s: float) -> None:
        self.store = MilvusStore(settings)
        self._guard = Guard(
            "Milvus",
            explain=explain,
            is_passing=is_unconnected,
            patience_s=settings.timeout_s,
            breaker=CircuitBreaker(pause_s),
        )

    def dense(
        self, cursor: HotCursor, snapshot: PipelineSnapshot, eligibility: Eligibility, query_embedding: Float32Array
    ) -> Int64Array:
        if not query_embedding.any():
            return NOTHING
        return self._search(cursor, snapshot, eligibility, "dense", query_embedding.tolist())

    def lexical(
        self, cursor: HotCursor, snapshot: PipelineSnapshot, eligibility: Eligibility, terms: QueryTerms
    ) -> Int64Array:
        """The query's statistics count what its reader may see, as they do in PostgreSQL."""
        if not len(terms.unique_ids):
            return NOTHING
        weights = terms.counts * inverse_document_frequency(terms.document_frequencies, terms.chunk_count)
        vector = dict(zip(terms.unique_ids.tolist(), weights.tolist(), strict=True))
        return self._search(cursor, snapshot, eligibility, "lexical", vector)

    def lag(self, cursor: HotCursor, snapshot: PipelineSnapshot) -> str | None:
        ((waits,),) = cursor.rows(_WAITS, {"collection_id": snapshot.collection_id})
        return "Milvus has not been told of the latest changes yet." if waits else None

    def check(self) -> Report:
        try:
            version = self._guard.ask(self.store.ping)
        except RetrievalError as fault:
            return Report(State.DEGRADED, f"Words are searched in PostgreSQL, and nothing else: {fault}")
        waiting = outbox.backlog()
        detail = f"Milvus {version}; {waiting.rows} changes wait, the oldest for {waiting.oldest_s:.0f} s"
        if waiting.oldest_s > LAG_DEGRADED_S:
            return Report(State.DEGRADED, f"{detail}. See the worker's log.")
        return Report(State.OK, detail)

    def close(self) -> None:
        self.store.close()

    def _search(
        self, cursor: HotCursor, snapshot: PipelineSnapshot, eligibility: Eligibility, field: str, vector: Any
    ) -> Int64Array:
        condition = expression(eligibility, _default_groups(cursor, snapshot, eligibility))
        if condition is None:
            return NOTHING
        name = self.store.alias(snapshot.collection_id, snapshot.space.id)

        def search() -> list[tuple[float, int]] | None:
            try:
                return self.store.search(name, field, vector, condition, snapshot.candidate_depth)
            except Exception as error:
                if is_missing(error):
                    return None
                raise

        hits = self._guard.call(search)
        if hits is None:
            return self._not_built(cursor, snapshot)
        found = np.array([chunk_id for _, chunk_id in hits], dtype=np.int64)
        return still_eligible(cursor, snapshot, eligibility, found)

    def _not_built(self, cursor: HotCursor, snapshot: PipelineSnapshot) -> Int64Array:
        """What has no copy yet is empty, or is to be built. Raises `RetrievalError`."""
        place = {"collection_id": snapshot.collection_id, "space_id": snapshot.space.id}
        ((has_vectors,),) = cursor.rows(_HAS_VECTORS, place)
        if has_vectors:
            raise RetrievalError(
                f"Milvus has no copy of '{snapshot.collection}' yet: manage.py milvus rebuild {snapshot.collection}"
            )
        return NOTHING


def _default_groups(cursor: HotCursor, snapshot: PipelineSnapshot, eligibility: Eligibility) -> list[str]:
    if eligibility.groups is None:
        return []
    rows = cursor.rows(_DEFAULT_GROUPS, {"collection_id": snapshot.collection_id})
    return list(rows[0][0]) if rows else []


def explain(error: BaseException) -> str | None:
    """What is wrong with Milvus, in our own words: a server's message may hold parts of the request."""
    import grpc
    from pymilvus import MilvusException
    from pymilvus.exceptions import ConnectionConfigException

    if isinstance(error, ConnectionConfigException):
        return (
            "Milvus Lite's file can't be opened: milvus-lite is not installed, or another process uses the file. "
            "It serves one process alone; several need a Milvus server (MILVUS_URI)."
        )
    if isinstance(error, MilvusException):
        return f"Milvus can't be used (code {error.code})."
    if isinstance(error, grpc.RpcError | ConnectionError | TimeoutError):
        return f"Milvus can't be reached at MILVUS_URI ({type(error).__name__})."
    return None

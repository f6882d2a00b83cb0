"""Where candidates come from: a `Retriever` a mode, and what becomes of an answer when one of its legs fails.

``pgvector`` asks PostgreSQL, whose faults end the request. The other modes ask servers of their own: when one fails,
the query is answered by the other leg, and says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from django.conf import settings

from ops.contracts.health import Report, State
from ops.contracts.metrics import declare_counter
from rag.pipeline.database import HotCursor
from rag.pipeline.dense import retrieve_dense
from rag.pipeline.eligible import Eligibility
from rag.pipeline.lexical import Words, retrieve_lexical
from rag.pipeline.snapshot import PipelineSnapshot
from rag.pipeline.types import Float32Array, Int64Array, QueryTerms

Degrade = Callable[[str, str], None]
"""Notes what could not be used, and why."""

FAULTS = declare_counter(
    "zenglow_retrieval_faults", "Legs of retrieval that failed and were answered without.", ("retrieval_mode", "leg")
)


class RetrievalError(Exception):
    """A leg can't be used now. The message is one sentence, free of secrets."""


class Retriever(Protocol):
    """One retrieval mode. Both legs return chunk ids, int64, best first, at most ``snapshot.candidate_depth``.

    Access groups and filters apply before the list is cut, and what is returned exists in PostgreSQL or did a moment
    ago. A leg raises `RetrievalError` when it can't be used.
    """

    def dense(
        self, cursor: HotCursor, snapshot: PipelineSnapshot, eligibility: Eligibility, query_embedding: Float32Array
    ) -> Int64Array:
        """The nearest by cosine distance. A query embedding of zeros is near to nothing."""

    def lexical(
        self, cursor: HotCursor, snapshot: PipelineSnapshot, eligibility: Eligibility, terms: QueryTerms
    ) -> Int64Array:
        """The best by BM25."""

    def lag(self, cursor: HotCursor, snapshot: PipelineSnapshot) -> str | None:
        """Why what the legs find may be older than PostgreSQL's last commit; ``None`` when it is not."""

    def check(self) -> Report:
        """Whether it can be used, asked of the server itself: for start-up and ``/health/ready``."""

    def close(self) -> None:
        """Give back its connections; it is not used again."""


class Pgvector:
    """The default: everything in PostgreSQL."""

    dense = staticmethod(retrieve_dense)
    lexical = staticmethod(retrieve_lexical)

    def lag(self, cursor: HotCursor, snapshot: PipelineSnapshot) -> str | None:
        return None

    def check(self) -> Report:
        return Report(State.OK)

    def close(self) -> None:
        """It has no connection of its own."""


_retrievers: dict[str, Retriever] = {}


def retriever_for(mode: str) -> Retriever:
    """The retriever of a mode, one a process. Its libraries are imported only when it is used."""
    found = _retrievers.get(mode)
    if found is None:
        found = _retrievers.setdefault(mode, _make(mode))
    return found


def _make(mode: str) -> Retriever:
    if mode == "supabase_rpc":
        from rag import supabase_key
        from rag.pipeline.remote.supabase import SupabaseRpc

        return SupabaseRpc(
            settings.SUPABASE_URL,
            supabase_key.current,
            settings.RAG_RETRIEVAL_TIMEOUT_S,
            settings.RAG_RETRIEVAL_PAUSE_S,
        )
    if mode == "milvus":
        from rag.milvus.store import configured
        from rag.pipeline.remote.milvus import Milvus

        return Milvus(configured(timeout_s=settings.RAG_RETRIEVAL_TIMEOUT_S), settings.RAG_RETRIEVAL_PAUSE_S)
    return Pgvector()


def forget() -> None:
    """Drop retrievers with their connections: for tests that change settings, and before a process forks."""
    while _retrievers:
        _retrievers.popitem()[1].close()


def retrieve(
    cursor: HotCursor,
    snapshot: PipelineSnapshot,
    eligibility: Eligibility,
    query_embedding: Float32Array,
    words: Words,
    degrade: Degrade,
) -> tuple[QueryTerms, Int64Array, Int64Array]:
    """The query's terms and what both legs found, dense and lexical.

    A leg that failed is empty, or PostgreSQL's BM25 stands in for it.
    """
    terms, ranked_by_words = words()
    mode = snapshot.retrieval_mode
    retriever = retriever_for(mode)
    if late := retriever.lag(cursor, snapshot):
        degrade("freshness", late)
    try:
        dense = retriever.dense(cursor, snapshot, eligibility, query_embedding)
    except RetrievalError as fault:
        _note(degrade, mode, "dense", fault)
        dense = np.empty(0, dtype=np.int64)
    if ranked_by_words is not None:
        return terms, dense, ranked_by_words
    try:
        lexical = retriever.lexical(cursor, snapshot, eligibility, terms)
    except RetrievalError as fault:
        _note(degrade, mode, "lexical", fault)
        lexical = retrieve_lexical(cursor, snapshot, eligibility, terms)
    return terms, dense, lexical


def _note(degrade: Degrade, mode: str, leg: str, fault: RetrievalError) -> None:
    FAULTS.labels(mode, leg).inc()
    degrade(leg, str(fault))


def check_retrieval() -> Report:
    """For ``/health/ready``: whether the mode in force can be used."""
    mode = settings.RAG_RETRIEVAL_MODE
    report = retriever_for(mode).check()
    return Report(report.state, f"{mode}: {report.detail}" if report.detail else mode)
